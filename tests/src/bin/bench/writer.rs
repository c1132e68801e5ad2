//! One client that writes: to Pontoon as any user may, or to etcd.

use std::path::Path;

use anyhow::Result;
use pontoon_proto::v1::network_service_client::NetworkServiceClient;
use pontoon_proto::v1::node_service_client::NodeServiceClient;
use pontoon_proto::v1::{CreateNetworkRequest, LabelNodeRequest, RemoveNetworkRequest};
use tonic::Status;
use tonic::transport::Channel;

use crate::etcd::EtcdClient;
use pontoon_tests::socket;

/// Size of the values put into etcd, in bytes.
pub(crate) const VALUE_BYTES: usize = 256;

/// What is written, over one connection.
#[derive(Debug, Clone)]
pub(crate) enum Writer {
    /// `pontoon node label h1 KEY=NUMBER`.
    Label {
        /// Connection.
        client: NodeServiceClient<Channel>,
        /// The client's own label.
        key: String,
    },
    /// `pontoon network create NAME` and `pontoon network rm NAME`, in turn.
    Network {
        /// Connection.
        client: NetworkServiceClient<Channel>,
        /// The client's own network.
        name: String,
    },
    /// `etcdctl put KEY VALUE`.
    Put {
        /// Connection.
        client: EtcdClient,
        /// The client's own key.
        key: String,
    },
}

impl Writer {
    /// Labels, through the daemon at this socket.
    pub(crate) async fn label(socket: &Path, client: usize) -> Result<Self> {
        let connection = NodeServiceClient::new(socket::connect(socket).await?);
        Ok(Self::Label { client: connection, key: format!("bench-{client}") })
    }

    /// Networks, through the daemon at this socket.
    pub(crate) async fn network(socket: &Path, client: usize) -> Result<Self> {
        let connection = NetworkServiceClient::new(socket::connect(socket).await?);
        Ok(Self::Network { client: connection, name: format!("bench-{client}") })
    }

    /// Values, through the member of etcd at this socket.
    pub(crate) async fn put(socket: &Path, client: usize) -> Result<Self> {
        Ok(Self::Put { client: EtcdClient::connect(socket).await?, key: format!("bench-{client}") })
    }

    /// The client's write of this number, from 0 on. Answered once it is committed.
    pub(crate) async fn write(&mut self, number: u64) -> Result<(), Status> {
        match self {
            Self::Label { client, key } => {
                let set = [(key.clone(), number.to_string())].into();
                let request = LabelNodeRequest { node: "h1".to_owned(), set, remove: Vec::new() };
                client.label_node(request).await.map(drop)
            }
            Self::Network { client, name } if number.is_multiple_of(2) => {
                let request = CreateNetworkRequest { name: name.clone(), ..CreateNetworkRequest::default() };
                client.create_network(request).await.map(drop)
            }
            Self::Network { client, name } => {
                client.remove_network(RemoveNetworkRequest { network: name.clone() }).await.map(drop)
            }
            Self::Put { client, key } => client.put(key.clone(), vec![0x5a; VALUE_BYTES]).await,
        }
    }
}

use super::*;

/// Prints how fast writes are: run it by hand.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn write_rates() {
    let daemons = three().await;
    let leading = leader(&daemons);
    for (place, at) in [("leader", leading), ("follower", (leading + 1) % 3)] {
        for clients in [1_usize, 16, 64] {
            let store = daemons[at].store();
            let node = store.node();
            let begun = Instant::now();
            let end = begun + Duration::from_secs(2);
            let write = |client: usize| {
                let store = store.clone();
                async move {
                    let mut took = Vec::new();
                    while Instant::now() < end {
                        let set = [(format!("c{client}"), took.len().to_string())].into();
                        let begun = Instant::now();
                        store.propose(Command::LabelNode { node, set, remove: vec![] }, DEADLINE).await.unwrap();
                        took.push(begun.elapsed());
                    }
                    took
                }
            };
            let tasks: Vec<_> = (0..clients).map(|client| tokio::spawn(write(client % 16))).collect();
            let mut took = Vec::new();
            for task in tasks {
                took.extend(task.await.unwrap());
            }
            took.sort();
            let rate = took.len() as f64 / begun.elapsed().as_secs_f64();
            println!(
                "{place}, {clients} clients: {rate:.0}/s, p50 {:?}, p99 {:?}",
                took[took.len() / 2],
                took[took.len() * 99 / 100]
            );
        }
    }
    let begun = Instant::now();
    for _ in 0..200 {
        daemons[(leading + 1) % 3].store().read_barrier(DEADLINE).await.unwrap();
    }
    println!("linearizable read on a follower: {:?}", begun.elapsed() / 200);
}

// Steers what a container asks Docker's resolver to the daemon's own sockets (docs/decisions/names.md).
//
// Attached to a container's network namespace, it is run when the kernel looks for the socket that a packet is for.
// It only chooses: when the daemon ends, its sockets and this program are gone, and the kernel finds Docker's again.
//
// `make bpf` compiles it to steer.o; `make bpf-check` shows that steer.o is made of this. Its licence is the project's:
// no helper that it calls is reserved for programs under the GPL.

#include <linux/bpf.h>
#include <linux/in.h>

#define SEC(name) __attribute__((section(name), used))

// Addresses as a packet has them, read by a little-endian processor.
#define DOCKER 0x0b00007f   // 127.0.0.11: Docker's resolver
#define ONWARD 0x0c00007f   // 127.0.0.12: from where the daemon asks that resolver

static void *(*map_lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*assign)(struct bpf_sk_lookup *ctx, void *sk, __u64 flags) = (void *)BPF_FUNC_sk_assign;
static long (*release)(void *sk) = (void *)BPF_FUNC_sk_release;

struct map {
    __u32 type, key_size, value_size, max_entries, flags;
};

// The daemon's sockets in this namespace: 0 for UDP, 1 for TCP.
struct map SOCKETS SEC("maps") = {BPF_MAP_TYPE_SOCKMAP, sizeof(__u32), sizeof(__u32), 2, 0};

// The ports that Docker's resolver has in this namespace, by the same keys. Set by the daemon before it attaches this.
struct map PORTS SEC("maps") = {BPF_MAP_TYPE_ARRAY, sizeof(__u32), sizeof(__u32), 2, 0};

SEC("sk_lookup") int steer(struct bpf_sk_lookup *ctx) {
    if (ctx->family != 2 /* AF_INET */ || ctx->local_ip4 != DOCKER || ctx->remote_ip4 == ONWARD)
        return SK_PASS;
    __u32 key = ctx->protocol == IPPROTO_TCP;
    __u32 *port = map_lookup(&PORTS, &key);
    if (!port || *port != ctx->local_port)
        return SK_PASS;
    void *socket = map_lookup(&SOCKETS, &key);
    if (socket) {
        assign(ctx, socket, 0);
        release(socket);
    }
    return SK_PASS;
}

char LICENCE[] SEC("license") = "MIT";

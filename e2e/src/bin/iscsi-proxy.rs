//! The rig's proxy as a process of its own, so that it can run in a network namespace: see `lunette_e2e::proxy`.

fn main() -> anyhow::Result<()> {
    lunette_e2e::proxy::serve()
}

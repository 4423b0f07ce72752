mod callee;
#[expect(dead_code, reason = "shared with the tests of NATS, which use the rest")]
mod caller;
mod calls;
mod commands;
mod idle;
mod site;
mod sockets;
mod wire;

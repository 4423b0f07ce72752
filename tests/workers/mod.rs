mod callee;
mod caller;
mod calls;
mod commands;
mod idle;
mod site;
mod sockets;
mod wire;

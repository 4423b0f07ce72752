mod dead;
mod delivery;
mod receiver;
mod restart;
mod site;
mod tls;

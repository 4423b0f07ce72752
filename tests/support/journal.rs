//! A journal in memory: the latest record of whatever is open.

use std::collections::BTreeMap;

use sipstamp::endpoint::{Record, RecordOf, Stored};

#[derive(Clone, Debug, Default)]
pub struct Journal {
    calls: BTreeMap<u128, Box<[u8]>>,
    servers: BTreeMap<u128, Box<[u8]>>,
    clients: BTreeMap<u128, Box<[u8]>>,
}

impl Journal {
    pub fn take(&mut self, record: &Record) {
        let map = match record.of {
            RecordOf::Call => &mut self.calls,
            RecordOf::Server => &mut self.servers,
            RecordOf::Client => &mut self.clients,
        };
        if record.state.is_empty() {
            map.remove(&record.key);
        } else {
            map.insert(record.key, record.state.as_ref().into());
        }
    }

    /// The event that ends a call has come.
    pub fn end(&mut self, uid: u128) {
        self.calls.remove(&uid);
    }

    /// As if the callers' requests had never been written.
    pub fn lose_servers(&mut self) {
        self.servers.clear();
    }

    /// As if what went to servers had never been written.
    pub fn lose_clients(&mut self) {
        self.clients.clear();
    }

    pub fn open(&self) -> usize {
        self.calls.len()
    }

    pub fn stored(&self) -> Stored {
        let list = |map: &BTreeMap<u128, Box<[u8]>>| map.iter().map(|(key, state)| (*key, state.clone())).collect();
        Stored { calls: list(&self.calls), servers: list(&self.servers), clients: list(&self.clients) }
    }
}

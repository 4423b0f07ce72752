//! File descriptors: as many as the limits of the configuration need.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::Settings;

/// Descriptors for everything but SIP connections: listeners, sockets for datagrams, the API, files, sinks.
const OTHERS: u64 = 512;

/// What becomes of the soft limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    Enough,
    Raise(u64),
    /// As far as the hard limit allows, which is not enough.
    Short(u64),
}

/// Raises the soft limit to what is needed, and says so where the hard limit is below that.
pub(super) fn allow(settings: &Settings) {
    let needed = u64::try_from(settings.sockets.tcp_connections).unwrap_or(u64::MAX).saturating_add(OTHERS);
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let plan = plan(needed, soft, hard);
        if let Plan::Raise(to) | Plan::Short(to) = plan {
            setrlimit(Resource::RLIMIT_NOFILE, to, hard)?;
        }
        Ok(plan)
    });
    match raised {
        Ok(Plan::Enough) => {}
        Ok(Plan::Raise(to)) => tracing::debug!(to, "the limit of file descriptors is raised"),
        Ok(Plan::Short(hard)) => tracing::warn!(
            needed,
            hard,
            "limits.tcp_connections needs more file descriptors than the process may have: connections will fail; \
             lower it, or raise the hard limit (LimitNOFILE= in a unit of systemd, ulimit -Hn, --ulimit nofile of a container)"
        ),
        Err(error) => tracing::warn!(%error, needed, "the limit of file descriptors cannot be raised"),
    }
}

fn plan(needed: u64, soft: u64, hard: u64) -> Plan {
    if soft >= needed {
        Plan::Enough
    } else if hard >= needed {
        Plan::Raise(needed)
    } else {
        Plan::Short(hard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_as_far_as_is_needed_and_allowed() {
        for (soft, hard, expected) in [
            (65_536, 65_536, Plan::Enough),
            (1_536, 65_536, Plan::Enough),
            (1_024, 65_536, Plan::Raise(1_536)),
            (1_024, 1_024, Plan::Short(1_024)),
            (512, 1_024, Plan::Short(1_024)),
        ] {
            assert_eq!(plan(1_536, soft, hard), expected, "{soft}, {hard}");
        }
    }
}

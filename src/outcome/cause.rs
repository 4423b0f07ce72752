//! Why a call ended, by whose hand, and what was odd on the way.

use super::Outcome;
use crate::closed::closed_enum;

closed_enum! {
    /// Why a call ended. May grow.
    pub enum EndCause {
        AnsweredByeCaller = "answered_bye_caller",
        AnsweredByeCallee = "answered_bye_callee",
        AnsweredMaxDuration = "answered_max_duration",
        AnsweredSessionExpired = "answered_session_expired",
        AnsweredNoAck = "answered_no_ack",
        AnsweredHungUp = "answered_hung_up",
        HungUp = "hung_up",
        NoAnswerTimer = "no_answer_timer",
        NoResponse = "no_response",
        DialerRingTimeout = "dialer_ring_timeout",
        CallerCancel = "caller_cancel",
        AnsweredElsewhere = "answered_elsewhere",
        Redirected = "redirected",
        PeerFinal = "peer_final",
        AuthFailed = "auth_failed",
        TransportError = "transport_error",
        LocalReject = "local_reject",
        Overload = "overload",
        Restart = "restart",
        Shutdown = "shutdown",
    }
}

closed_enum! {
    /// Who ended a call. May grow.
    pub enum EndedBy {
        Caller = "caller",
        Callee = "callee",
        Sidecar = "sidecar",
        Network = "network",
    }
}

closed_enum! {
    /// Where the code of the final response came from.
    pub enum CodeSource {
        /// The far side sent it.
        Peer = "peer",
        /// Made here.
        Local = "local",
        /// There is no code.
        None = "none",
    }
}

closed_enum! {
    /// What was odd on the wire. May grow.
    pub enum Anomaly {
        MissingAck = "missing_ack",
        Extra2xx = "extra_2xx",
        Late2xx = "late_2xx",
        ByeUnanswered = "bye_unanswered",
        ByeRefused = "bye_refused",
        RepeatedBye = "repeated_bye",
        Retransmissions = "retransmissions",
        CseqOutOfOrder = "cseq_out_of_order",
        No18xBefore2xx = "no_18x_before_2xx",
        ResponseToCancelMissing = "response_to_cancel_missing",
    }
}

impl EndCause {
    /// Who ended a call with this cause.
    pub const fn ended_by(self) -> EndedBy {
        match self {
            Self::AnsweredByeCaller
            | Self::CallerCancel
            | Self::AnsweredElsewhere
            | Self::DialerRingTimeout
            | Self::AuthFailed => EndedBy::Caller,
            Self::AnsweredByeCallee | Self::PeerFinal | Self::Redirected => EndedBy::Callee,
            Self::NoResponse | Self::TransportError => EndedBy::Network,
            Self::AnsweredMaxDuration
            | Self::AnsweredSessionExpired
            | Self::AnsweredNoAck
            | Self::AnsweredHungUp
            | Self::HungUp
            | Self::NoAnswerTimer
            | Self::LocalReject
            | Self::Overload
            | Self::Restart
            | Self::Shutdown => EndedBy::Sidecar,
        }
    }

    /// The outcome of a cause that does not go by the final response's code: nobody answered, or the
    /// caller or the sidecar ended what the far side was still at.
    pub const fn fixed_outcome(self) -> Option<Outcome> {
        match self {
            Self::NoAnswerTimer | Self::NoResponse | Self::DialerRingTimeout => Some(Outcome::NoAnswer),
            Self::CallerCancel | Self::AnsweredElsewhere | Self::HungUp | Self::Restart => Some(Outcome::CallFailed),
            _ => None,
        }
    }
}

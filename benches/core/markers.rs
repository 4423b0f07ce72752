//! Functions in which callgrind counts, by their names.

use std::hint::black_box;

use super::exchange::{Kind, Probe, Span};

/// Does the work inside of markers: callgrind's `--toggle-collect` names them.
pub struct Marked;

/// Does the work.
pub struct Unmarked;

macro_rules! markers {
    ($($name:ident),+ $(,)?) => {
        $(
            #[inline(never)]
            fn $name<R>(work: impl FnOnce() -> R) -> R {
                // Each its own constant, or the compiler makes one function of them all.
                black_box(stringify!($name));
                black_box(work())
            }
        )+
    };
}

markers!(
    mark_index_invite,
    mark_index_ringing,
    mark_index_answer,
    mark_index_ack,
    mark_index_bye,
    mark_index_bye_answer,
    mark_handle_invite,
    mark_handle_ringing,
    mark_handle_answer,
    mark_handle_ack,
    mark_handle_bye,
    mark_handle_bye_answer,
    mark_timers,
    mark_journal,
    mark_release,
);

impl Probe for Marked {
    fn run<R>(&mut self, span: Span, work: impl FnOnce() -> R) -> R {
        match span {
            Span::Index(Kind::Invite) => mark_index_invite(work),
            Span::Index(Kind::Ringing) => mark_index_ringing(work),
            Span::Index(Kind::Answer) => mark_index_answer(work),
            Span::Index(Kind::Ack) => mark_index_ack(work),
            Span::Index(Kind::Bye) => mark_index_bye(work),
            Span::Index(Kind::ByeAnswer) => mark_index_bye_answer(work),
            Span::Handle(Kind::Invite) => mark_handle_invite(work),
            Span::Handle(Kind::Ringing) => mark_handle_ringing(work),
            Span::Handle(Kind::Answer) => mark_handle_answer(work),
            Span::Handle(Kind::Ack) => mark_handle_ack(work),
            Span::Handle(Kind::Bye) => mark_handle_bye(work),
            Span::Handle(Kind::ByeAnswer) => mark_handle_bye_answer(work),
            Span::Timers => mark_timers(work),
            Span::Journal => mark_journal(work),
            Span::Release => mark_release(work),
        }
    }
}

impl Probe for Unmarked {
    fn run<R>(&mut self, _: Span, work: impl FnOnce() -> R) -> R {
        work()
    }
}

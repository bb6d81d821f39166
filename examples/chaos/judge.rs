//! The judgement of how a call ended.

use std::time::Duration;

use snakepen::{Ended, Error, Exit, Stage, StartError};

use crate::call::{Answer, Call, Expect, Extra, Way};
use crate::ledger::{Fate, Ran};
use crate::{Chaos, TOLERANCE};

#[derive(Debug)]
pub(crate) enum Outcome {
    Ended(Result<Answer, Error>),
    /// By its caller; perhaps before it was made.
    Dropped {
        unsure: bool,
    },
    /// Has not ended in time.
    Hangs,
    /// Something that it gave before its end is not what it should be.
    Wrong(String),
}

/// What is in the message of a content that may have been harmed on its way.
pub(crate) const CONTENT: &str = "other buffers";

pub(crate) fn fate(call: &Call, outcome: &Outcome) -> Fate {
    let ran = match outcome {
        Outcome::Ended(Ok(_)) if call.extra == Extra::Idempotent => Ran::Again,
        Outcome::Ended(Err(error)) if call.extra == Extra::Idempotent && error.may_have_run() => {
            Ran::Again
        }
        Outcome::Dropped { .. } | Outcome::Hangs if call.extra == Extra::Idempotent => Ran::Again,
        Outcome::Ended(
            Ok(_) | Err(Error::Python { .. } | Error::BadResult { .. } | Error::Decode { .. }),
        ) => Ran::Once,
        Outcome::Ended(Err(error)) if !error.may_have_run() => Ran::Never,
        _ => Ran::Perhaps,
    };
    let given_up =
        matches!(outcome, Outcome::Ended(Err(Error::Timeout { .. } | Error::Cancelled { .. })));
    let stopped = given_up || matches!(outcome, Outcome::Dropped { .. });
    Fate { ran, stopped, handler: call.handler }
}

/// Whether a call ended as it should; else by which fault, which is no fault of the pool's; else what is wrong.
pub(crate) fn judge(
    call: &Call,
    outcome: &Outcome,
    took: Duration,
    faulty: bool,
    chaos: &Chaos,
) -> Result<Option<String>, String> {
    let garbled = chaos.is_garbled().then(|| "garbage within".to_owned());
    let ended = match outcome {
        Outcome::Dropped { .. } => return Ok(None),
        Outcome::Hangs => return Err("a call does not end".to_owned()),
        Outcome::Wrong(what) if what.contains(CONTENT) && garbled.is_some() => return Ok(garbled),
        Outcome::Wrong(what) => return Err(what.clone()),
        Outcome::Ended(ended) => ended,
    };
    match ended {
        Ok(Answer(nonce, ..)) if *nonce != call.nonce => {
            return Err("another call's answer".to_owned());
        }
        Ok(Answer(_, slot, ..)) if is_of_another(call, *slot) => {
            return Err("another worker's answer".to_owned());
        }
        Err(error @ Error::Timeout { .. }) if is_early(call, error, took) => {
            return Err("an early timeout".to_owned());
        }
        _ if call.cancel_after.is_some_and(|time| took > time + TOLERANCE) => {
            return Err("a cancelled call goes on".to_owned());
        }
        Err(Error::WorkerDied(death)) if death.handler != call.handler => {
            return Err("another call's death".to_owned());
        }
        _ => {}
    }
    let as_expected = match (&call.expect, ended) {
        (Expect::Answer(text) | Expect::DeadlockOr(text), Ok(Answer(_, _, answer, ..))) => {
            answer == text
        }
        (Expect::OneOf(texts), Ok(Answer(_, _, answer, ..))) => texts.contains(answer),
        (Expect::Buffers(buffers), Ok(Answer(_, _, _, answer, _))) => answer == buffers,
        (Expect::Arrays(arrays), Ok(Answer(_, _, _, _, answer))) => answer == arrays,
        (Expect::Inner(text), Ok(Answer(_, _, answer, ..))) => {
            answer == text || answer.starts_with("inner ")
        }
        (Expect::Other, Err(Error::Decode { .. }))
        | (Expect::BadResult, Err(Error::BadResult { .. }))
        | (Expect::Unknown, Err(Error::UnknownHandler { .. }))
        | (Expect::Refused, Err(Error::Encode { .. } | Error::TooLarge { .. }))
        | (Expect::Deadlock | Expect::DeadlockOr(_), Err(Error::WouldDeadlock { .. }))
        | (Expect::Timeout | Expect::DeathOrTimeout(_), Err(Error::Timeout { .. })) => true,
        (Expect::Exception(name), Err(Error::Python { exception, .. })) => {
            exception.type_name == *name && exception.message.contains(&call.nonce.to_string())
        }
        (_, Err(Error::Cancelled { .. })) => call.cancel_after.is_some_and(|time| took >= time),
        (_, Err(Error::WorkerBusy { .. })) => matches!(call.extra, Extra::PinnedNow(_)),
        (Expect::Death(is) | Expect::DeathOrTimeout(is), Err(Error::WorkerDied(death))) => {
            is(death)
        }
        _ => false,
    };
    if as_expected {
        return Ok(None);
    }
    let error = match ended {
        Err(error) => error,
        Ok(_) if matches!(call.expect, Expect::Buffers(_) | Expect::Arrays(_)) => {
            return if garbled.is_some() { Ok(garbled) } else { Err("another content".to_owned()) };
        }
        Ok(_) => return Err("a wrong answer".to_owned()),
    };
    if chaos.is_cut() && is_of_shutdown(error) {
        return Ok(Some("shutdown".to_owned()));
    }
    let may_fail = match error {
        // It was to be refused at once.
        Error::Timeout { .. } => {
            !matches!(call.expect, Expect::Refused | Expect::Deadlock | Expect::DeadlockOr(_))
        }
        Error::WorkerDied(death) if matches!(death.ended, Ended::Protocol(_)) => garbled.is_some(),
        _ => !matches!(call.expect, Expect::Refused),
    };
    let is_hasty = matches!(error, Error::Timeout { .. }) && call.deadline < Duration::from_secs(1);
    let how = match error {
        Error::Decode { .. } => garbled,
        error => collateral(error, chaos.overlaps),
    };
    match how {
        Some(how) if may_fail && (faulty || how == SATURATED || how == BESIDE || is_hasty) => {
            Ok(Some(how))
        }
        _ => Err("an error that nothing explains".to_owned()),
    }
}

fn is_of_another(call: &Call, slot: usize) -> bool {
    let is_slot = matches!(call.way, Way::Slot(asked) | Way::SlotName(asked) if asked != slot);
    // A stream without items does not tell.
    is_slot && call.items.as_ref().is_none_or(|items| items.count > 0)
}

fn is_early(call: &Call, error: &Error, took: Duration) -> bool {
    let Error::Timeout { elapsed, timeout, stage, .. } = error else { return false };
    let each = call.items.as_ref().and_then(|items| items.item_timeout);
    match each.filter(|_| *stage == Stage::Item) {
        Some(each) => *timeout != each || took < each,
        // What it has left of the other's time is not known here.
        None if call.inner => elapsed < timeout || *timeout > call.deadline,
        None => *timeout != call.deadline || elapsed < timeout || took < call.deadline,
    }
}

fn is_of_shutdown(error: &Error) -> bool {
    match error {
        Error::Closed { .. } => true,
        Error::WorkerDied(death) => death.ended == Ended::Shutdown,
        // Its names are gone, or what it has called in turn was refused.
        Error::Python { exception, .. } => exception.type_name == "ActorError",
        _ => false,
    }
}

const SATURATED: &str = "saturated";
const BESIDE: &str = "died (beside one that was given up)";

/// What a call that is none of a fault's business may suffer by it, in words; `None` for what must not happen to it.
/// Where calls overlap, it may be one of those beside a handler that ends their worker.
pub(crate) fn collateral(error: &Error, overlaps: bool) -> Option<String> {
    match error {
        Error::WorkerDied(death) => {
            let batched = death.handler.starts_with("batches");
            let known = match (&death.ended, death.exit) {
                // The signals that are injected; none where the launcher could not tell.
                (Ended::Itself, Exit::Signal(6 | 9 | 11 | 15) | Exit::Unknown) => true,
                (
                    Ended::Launcher
                    | Ended::Stopped
                    | Ended::Suspended
                    | Ended::Unhealthy
                    | Ended::Protocol(_),
                    _,
                ) => true,
                (Ended::Itself, Exit::Code(6)) if death.handler == "batches_die" => true,
                // What handlers beside it do.
                (Ended::Itself, Exit::Code(3..=8 | 70)) => overlaps,
                (Ended::ClosedPort | Ended::Memory { .. }, _) => overlaps,
                (Ended::Collateral { .. } | Ended::LoopBlocked { .. }, _)
                    if overlaps || batched =>
                {
                    return Some(BESIDE.to_owned());
                }
                _ => false,
            };
            let when = if death.started { "" } else { ", not started" };
            let ended = match &death.ended {
                Ended::Protocol(_) => "Protocol".to_owned(),
                Ended::Memory { .. } => "Memory".to_owned(),
                Ended::Itself => format!("{:?}", death.exit),
                ended => format!("{ended:?}"),
            };
            known.then(|| format!("died ({ended}{when})"))
        }
        Error::Start(error) => match **error {
            StartError::Exited { .. } => Some("no start (exited)".to_owned()),
            StartError::Stopped { .. } => Some("no start (stopped)".to_owned()),
            StartError::Timeout { .. } => Some("no start (timeout)".to_owned()),
            _ => None,
        },
        Error::Timeout { stage, .. } => Some(format!("timeout {stage}")),
        Error::Restarted { .. } => Some("pool actor restarted".to_owned()),
        Error::Saturated { .. } => Some(SATURATED.to_owned()),
        Error::NoSuchWorker { .. } => Some("handle not found".to_owned()),
        _ => None,
    }
}

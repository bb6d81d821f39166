//! The scheduler against a simple model, over random sequences of events.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// A request in the model's test. It cannot be copied: who has it is its only holder.
#[derive(Debug, PartialEq, Eq)]
struct Token {
    id: Id,
    deadline: Instant,
    wish: Wish,
}

/// What the scheduler should do, written to be obviously right: one list, looked through from its front.
#[derive(Debug)]
struct Model {
    /// In the order in which they would run on one worker, were their priorities the same.
    queue: Vec<(Id, Instant, Wish)>,
    workers: Vec<ModelWorker>,
    /// The workers before this one are given requests.
    open: usize,
}

#[derive(Debug, Default)]
struct ModelWorker {
    epoch: u64,
    up: bool,
    broken: bool,
    running: Option<(Id, Instant)>,
    /// The running request's end of time has been told.
    told: bool,
    /// How often requests of a priority have been passed over, since one was taken.
    passed: BTreeMap<Priority, usize>,
}

impl ModelWorker {
    fn vacate(&mut self) {
        self.up = false;
        self.running = None;
        self.told = false;
    }
}

impl Model {
    fn new(slots: usize) -> Self {
        let workers = std::iter::repeat_with(ModelWorker::default).take(slots).collect();
        Self { queue: Vec::new(), workers, open: slots }
    }

    fn is_idle(&self, slot: usize) -> bool {
        slot < self.open && self.workers[slot].up && self.workers[slot].running.is_none()
    }

    /// The first idle worker that can run anything, one that is preferred before all others, takes the first that it can
    /// run, of the priority whose turn it is.
    fn settle(&mut self) -> Option<(usize, u64, Id)> {
        let preferred = self.queue.iter().find_map(|queued| match queued.2.place {
            Place::Preferred(slot) => Some(slot).filter(|&slot| self.is_idle(slot)),
            _ => None,
        });
        for number in preferred.into_iter().chain(0..self.workers.len()) {
            if !self.is_idle(number) {
                continue;
            }
            let worker = &mut self.workers[number];
            let mine = |wish: Wish| wish.place.bound().is_none_or(|slot| slot == number);
            let waiting: BTreeSet<_> =
                self.queue.iter().filter(|q| mine(q.2)).map(|q| q.2.priority).collect();
            let passed = |priority| worker.passed.get(priority).copied().unwrap_or(0);
            let due = waiting.iter().find(|&priority| passed(priority) >= 8);
            let Some(&turn) = due.or(waiting.last()) else { continue };
            for priority in waiting {
                *worker.passed.entry(priority).or_default() += 1;
            }
            worker.passed.remove(&turn);
            let taken = |q: &(Id, Instant, Wish)| mine(q.2) && q.2.priority == turn;
            let (id, deadline, _) = self.queue.remove(self.queue.iter().position(taken)?);
            worker.running = Some((id, deadline));
            worker.told = false;
            return Some((number, worker.epoch, id));
        }
        None
    }

    fn holder(&self, id: Id) -> Option<usize> {
        self.workers.iter().position(|worker| worker.running.is_some_and(|(held, _)| held == id))
    }

    /// The end of time of whatever is still to be told of, first the earliest.
    fn deadlines(&self) -> Vec<(Instant, Id)> {
        let queued = self.queue.iter().map(|&(id, deadline, _)| (deadline, id));
        let untold = self.workers.iter().filter(|worker| !worker.told);
        let running =
            untold.filter_map(|worker| worker.running.map(|(id, deadline)| (deadline, id)));
        let mut all: Vec<_> = queued.chain(running).collect();
        all.sort_unstable();
        all
    }

    fn removed(&mut self, id: Id) -> Option<Removed<Id>> {
        if let Some(position) = self.queue.iter().position(|&(queued, ..)| queued == id) {
            self.queue.remove(position);
            return Some(Removed::Queued(id));
        }
        let slot = self.holder(id)?;
        Some(Removed::Running { slot, epoch: self.workers[slot].epoch, id })
    }

    fn expire(&mut self, now: Instant) -> Option<Removed<Id>> {
        let (_, id) = self.deadlines().into_iter().find(|&(deadline, _)| deadline <= now)?;
        if let Some(slot) = self.holder(id) {
            self.workers[slot].told = true;
        }
        self.removed(id)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Submit {
        /// At a place of this kind, of this slot.
        place: fn(usize) -> Place,
        slot: Index,
        priority: Priority,
        deadline: u64,
    },
    /// One that a worker holds, or that was lost with a worker, comes back.
    Resubmit(Index),
    /// One that was lost with a worker is answered by its port.
    Answer(Index),
    Cancel(Index),
    Expire {
        now: u64,
    },
    Up {
        slot: Index,
        stale: bool,
        running: Option<u64>,
    },
    Idle {
        slot: Index,
        stale: bool,
        wrong: bool,
    },
    Down {
        slot: Index,
        stale: bool,
    },
    Broken(Index),
    Resize(Index),
    Drain,
}

fn places() -> impl Strategy<Value = fn(usize) -> Place> {
    prop_oneof![
        5 => Just((|_| Place::Anywhere) as fn(usize) -> Place),
        2 => Just(Place::Preferred as fn(usize) -> Place),
        3 => Just(Place::Only as fn(usize) -> Place),
        1 => Just(Place::Now as fn(usize) -> Place),
    ]
}

/// Mostly the highest, so that the others have to wait for their turn.
fn priorities() -> impl Strategy<Value = Priority> {
    prop_oneof![6 => Just(High), 1 => Just(Normal), 1 => Just(Low)]
}

fn submits() -> impl Strategy<Value = Step> {
    (places(), any::<Index>(), priorities(), 0..100u64).prop_map(
        |(place, slot, priority, deadline)| Step::Submit { place, slot, priority, deadline },
    )
}

/// Whatever can happen.
fn steps() -> impl Strategy<Value = Step> {
    let index = any::<Index>;
    let rarely = || prop::bool::weighted(0.15);
    prop_oneof![
        10 => submits(),
        4 => index().prop_map(Step::Resubmit),
        1 => index().prop_map(Step::Answer),
        4 => index().prop_map(Step::Cancel),
        2 => (0..100u64).prop_map(|now| Step::Expire { now }),
        6 => (index(), rarely(), prop::option::weighted(0.2, 0..100u64))
            .prop_map(|(slot, stale, running)| Step::Up { slot, stale, running }),
        8 => (index(), rarely(), rarely())
            .prop_map(|(slot, stale, wrong)| Step::Idle { slot, stale, wrong }),
        3 => (index(), rarely()).prop_map(|(slot, stale)| Step::Down { slot, stale }),
        1 => index().prop_map(Step::Broken),
        2 => index().prop_map(Step::Resize),
        1 => Just(Step::Drain),
    ]
}

/// A pool under load: its queue grows, and its workers are rarely disturbed.
fn busy_steps() -> impl Strategy<Value = Step> {
    let index = any::<Index>;
    prop_oneof![
        60 => submits(),
        40 => index().prop_map(|slot| Step::Idle { slot, stale: false, wrong: false }),
        10 => index().prop_map(Step::Cancel),
        2 => index().prop_map(Step::Resubmit),
        1 => (0..20u64).prop_map(|now| Step::Expire { now }),
        1 => index().prop_map(|slot| Step::Up { slot, stale: false, running: None }),
        1 => index().prop_map(Step::Resize),
    ]
}

/// The scheduler, the model, and who has which request.
struct Trial {
    scheduler: Scheduler<Token>,
    model: Model,
    /// What each worker has.
    hands: Vec<Option<Token>>,
    /// What was lost with a worker, and neither came back nor was answered yet.
    lost: Vec<Token>,
    /// How often each request ended.
    ended: BTreeMap<Id, usize>,
    next_id: Id,
    /// The most that have waited at once.
    most: usize,
}

impl Trial {
    fn new(slots: usize) -> Self {
        Self {
            scheduler: Scheduler::new(slots),
            model: Model::new(slots),
            hands: std::iter::repeat_with(|| None).take(slots).collect(),
            lost: Vec::new(),
            ended: BTreeMap::new(),
            next_id: 1,
            most: 0,
        }
    }

    fn token(&mut self, deadline: u64, wish: Wish) -> Token {
        let id = self.next_id;
        self.next_id += 1;
        self.ended.insert(id, 0);
        Token { id, deadline: at(deadline), wish }
    }

    fn end(&mut self, token: &Token) {
        *self.ended.get_mut(&token.id).unwrap() += 1;
    }

    /// The worker of the slot is gone, or has nothing any more.
    fn lose(&mut self, slot: usize) {
        self.lost.extend(self.hands[slot].take());
    }

    /// The scheduler has decided; the model decides the same.
    fn assigned(&mut self, decision: Option<Assignment<Token>>) {
        let expected = self.model.settle();
        let found = decision.as_ref().map(|found| (found.slot, found.epoch, found.request.id));
        assert_eq!(found, expected);
        if let Some(Assignment { slot, request, .. }) = decision {
            assert_eq!(self.hands[slot], None, "a worker has two");
            assert!(
                request.wish.place.bound().is_none_or(|wanted| wanted == slot),
                "on the wrong worker"
            );
            self.hands[slot] = Some(request);
        }
    }

    fn removed(&mut self, found: Option<Removed<Token>>, expected: Option<Removed<Id>>) -> bool {
        let plain = found.as_ref().map(|found| match *found {
            Removed::Queued(ref token) => Removed::Queued(token.id),
            Removed::Running { slot, epoch, id } => Removed::Running { slot, epoch, id },
        });
        assert_eq!(plain, expected);
        if let Some(Removed::Queued(token)) = &found {
            self.end(token);
        }
        found.is_some()
    }

    fn returned(&mut self, found: &[Token], expected: impl Fn(Option<usize>) -> bool) {
        let ids: Vec<_> = found.iter().map(|token| token.id).collect();
        let (gone, kept) = std::mem::take(&mut self.model.queue)
            .into_iter()
            .partition(|queued| expected(queued.2.place.bound()));
        self.model.queue = kept;
        let gone: Vec<_> = gone.into_iter().map(|(id, ..)| id).collect();
        assert_eq!(ids, gone);
        for token in found {
            self.end(token);
        }
    }

    fn resubmit(&mut self, token: Token) {
        let Token { id, deadline, wish } = token;
        self.model.queue.insert(0, (id, deadline, wish));
        let decision = self.scheduler.resubmit(id, deadline, wish, token);
        self.assigned(decision);
    }

    /// The slot has a new worker, which holds a request with this deadline already, or none.
    fn up(&mut self, slot: usize, running: Option<u64>) {
        self.lose(slot);
        let adopted = running.map(|deadline| self.token(deadline, ANY));
        let running = adopted.as_ref().map(|token| (token.id, token.deadline));
        self.hands[slot] = adopted;
        let worker = &mut self.model.workers[slot];
        worker.vacate();
        (worker.epoch, worker.up, worker.broken) = (worker.epoch + 1, true, false);
        worker.running = running;
        let decision = self.scheduler.up(slot, worker.epoch, running);
        self.assigned(decision);
    }

    fn step(&mut self, step: &Step) {
        let slots = self.hands.len();
        match *step {
            Step::Submit { place, slot, priority, deadline } => {
                let token =
                    self.token(deadline, Wish { priority, place: place(slot.index(slots)), ..ANY });
                let Token { id, deadline, wish } = token;
                let busy =
                    |slot| matches!(wish.place, Place::Now(_)) && !self.scheduler.is_idle(slot);
                let refused = |slot| self.scheduler.is_closed(slot) || busy(slot);
                if wish.place.bound().is_some_and(refused) {
                    // Its submitter refuses it.
                    self.end(&token);
                    return;
                }
                self.model.queue.push((id, deadline, wish));
                let decision = self.scheduler.submit(id, deadline, wish, token);
                self.assigned(decision);
            }
            Step::Resubmit(which) => {
                let which = which.index(slots + self.lost.len().max(1));
                if let Some(slot) = Some(which).filter(|&slot| slot < slots) {
                    let open = |token: &mut Token| {
                        !token.wish.place.bound().is_some_and(|slot| self.scheduler.is_closed(slot))
                    };
                    if let Some(token) = self.hands[slot].take_if(open) {
                        self.model.workers[slot].vacate();
                        self.resubmit(token);
                    }
                } else if !self.lost.is_empty() {
                    let token = self.lost.swap_remove(which - slots);
                    if token.wish.place.bound().is_some_and(|slot| self.scheduler.is_closed(slot)) {
                        self.end(&token);
                    } else {
                        self.resubmit(token);
                    }
                }
            }
            Step::Answer(which) => {
                if !self.lost.is_empty() {
                    let token = self.lost.swap_remove(which.index(self.lost.len()));
                    self.end(&token);
                }
            }
            Step::Cancel(which) => {
                // Sometimes one that never was.
                let id = which.index(self.next_id as usize + 1) as Id;
                let found = self.scheduler.cancel(id);
                let expected = self.model.removed(id);
                self.removed(found, expected);
            }
            Step::Expire { now } => loop {
                let found = self.scheduler.expire(at(now));
                let expected = self.model.expire(at(now));
                if !self.removed(found, expected) {
                    break;
                }
            },
            Step::Up { slot, stale, running } => {
                let slot = slot.index(slots);
                let epoch = self.model.workers[slot].epoch;
                if stale {
                    let told = self.scheduler.up(slot, epoch.min(1), None);
                    assert_eq!(told, None, "news of an earlier incarnation");
                    return;
                }
                if running.is_none() && self.scheduler.is_closed(slot) {
                    assert_eq!(self.scheduler.up(slot, epoch + 1, None), None, "it is closed");
                    return;
                }
                self.up(slot, running);
            }
            Step::Idle { slot, stale, wrong } => {
                let slot = slot.index(slots);
                let worker = &mut self.model.workers[slot];
                let held = worker.running.map_or(0, |(id, _)| id);
                let epoch = if stale { worker.epoch.wrapping_sub(1) } else { worker.epoch };
                let id = if wrong { held + 1 } else { held };
                if !stale && !wrong && worker.running.take().is_some() {
                    worker.told = false;
                    worker.up = slot < self.model.open;
                    let token = self.hands[slot].take().unwrap();
                    self.end(&token);
                }
                let decision = self.scheduler.idle(slot, epoch, id);
                self.assigned(decision);
            }
            Step::Down { slot, stale } => {
                let slot = slot.index(slots);
                let epoch = self.model.workers[slot].epoch;
                if stale {
                    self.scheduler.down(slot, epoch.wrapping_sub(1));
                } else {
                    self.scheduler.down(slot, epoch);
                    self.model.workers[slot].vacate();
                    self.lose(slot);
                }
            }
            Step::Broken(slot) => {
                let slot = slot.index(slots);
                let found = self.scheduler.broken(slot);
                self.model.workers[slot].vacate();
                self.model.workers[slot].broken = slot < self.model.open;
                self.lose(slot);
                let Model { open, ref workers, .. } = self.model;
                let all = workers[..open].iter().all(|worker| worker.broken);
                let closed = slot >= open;
                self.returned(&found, |wanted| !closed && (all || wanted == Some(slot)));
            }
            Step::Resize(open) => {
                let open = open.index(slots) + 1;
                let found = self.scheduler.resize(open);
                self.model.open = open;
                for worker in &mut self.model.workers[open..] {
                    worker.up &= worker.running.is_some();
                    worker.broken = false;
                }
                self.returned(&found, |wanted| wanted.is_some_and(|slot| slot >= open));
                // Its caller does so.
                if self.scheduler.all_broken() {
                    let found = self.scheduler.drain();
                    self.returned(&found, |_| true);
                }
            }
            Step::Drain => {
                let found = self.scheduler.drain();
                self.returned(&found, |_| true);
            }
        }
    }

    fn check(&mut self) {
        let Self { scheduler, model, .. } = self;
        // The invariant of the module's head.
        assert_eq!(model.settle(), None, "an idle worker could run what is queued");
        for (slot, worker) in model.workers.iter().enumerate() {
            assert_eq!(scheduler.is_idle(slot), model.is_idle(slot), "slot {slot}");
            assert_eq!(scheduler.is_broken(slot), worker.broken, "slot {slot}");
        }
        let mut busy = scheduler.busy();
        busy.sort_unstable();
        let held: Vec<_> = (0..model.workers.len())
            .filter_map(|slot| model.workers[slot].running.map(|(id, _)| (slot, id)))
            .collect();
        assert_eq!(busy, held);
        let hands: Vec<_> = (0..self.hands.len())
            .filter_map(|slot| self.hands[slot].as_ref().map(|token| (slot, token.id)))
            .collect();
        assert_eq!(busy, hands);
        assert_eq!(scheduler.next_deadline(), model.deadlines().first().map(|&(when, _)| when));
        assert_eq!(scheduler.is_drained(), model.queue.is_empty() && held.is_empty());
        let all_broken = model.workers[..model.open].iter().all(|worker| worker.broken);
        assert_eq!(scheduler.all_broken(), all_broken);
        assert_eq!(scheduler.deadlines.len(), model.deadlines().len());
        self.most = self.most.max(scheduler.queued.len());
        assert_bounded(scheduler, self.most);
    }

    /// Lets everything end, and sees that it ended once.
    fn finish(mut self) {
        for slot in 0..self.hands.len() {
            self.model.workers[slot].vacate();
            self.scheduler.down(slot, self.model.workers[slot].epoch);
            self.lose(slot);
        }
        let found = self.scheduler.drain();
        self.returned(&found, |_| true);
        self.check();
        assert!(self.scheduler.is_drained());
        for token in std::mem::take(&mut self.lost) {
            self.end(&token);
        }
        for (id, times) in self.ended {
            assert_eq!(times, 1, "request {id}");
        }
    }
}

fn try_out(mut trial: Trial, steps: &[Step]) {
    for step in steps {
        trial.step(step);
        trial.check();
    }
    trial.finish();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn it_decides_as_the_model_does(
        slots in 1..5usize,
        steps in prop::collection::vec(steps(), 0..150),
    ) {
        try_out(Trial::new(slots), &steps);
    }

    #[test]
    fn it_decides_as_the_model_does_under_load(
        slots in 1..4usize,
        steps in prop::collection::vec(busy_steps(), 0..400),
    ) {
        let mut trial = Trial::new(slots);
        (0..slots).for_each(|slot| trial.up(slot, None));
        try_out(trial, &steps);
    }
}

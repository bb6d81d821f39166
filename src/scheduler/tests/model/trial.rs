//! What happens to the scheduler and the model.

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

#[derive(Clone, Debug)]
enum Step {
    Submit {
        /// At a place of this kind, of this slot.
        place: fn(usize) -> Place,
        slot: Index,
        priority: Priority,
        alone: bool,
        batch: Option<Batch>,
        ahead: u8,
        deadline: u64,
    },
    /// One that a worker holds comes back, as it takes no more.
    Resubmit(Index),
    /// One that a worker holds comes back, and that one goes on.
    Withdraw(Index),
    /// One that was lost with a worker comes back.
    Return(Index),
    /// One that was lost with a worker is answered by its port.
    Answer(Index),
    Cancel(Index),
    Expire {
        now: u64,
    },
    /// So many milliseconds pass.
    Pass(u64),
    Up {
        slot: Index,
        stale: bool,
        running: Vec<(u64, bool, bool)>,
    },
    Idle {
        slot: Index,
        which: Index,
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

/// Of few handlers. What is known of one may change.
fn batches() -> impl Strategy<Value = Batch> {
    (0..3u32, 1..5u16, prop::bool::ANY).prop_map(|(handler, size, waits)| Batch {
        handler,
        size,
        wait: Duration::from_millis(if waits { 5 } else { 0 }),
    })
}

fn submits() -> impl Strategy<Value = Step> {
    let handlers = (prop::bool::weighted(0.4), prop::option::weighted(0.5, batches()));
    let ahead = prop_oneof![2 => Just(0), 3 => 1..4u8];
    (places(), any::<Index>(), priorities(), handlers, ahead, 0..100u64).prop_map(
        |(place, slot, priority, (alone, batch), ahead, deadline)| Step::Submit {
            place,
            slot,
            priority,
            alone,
            batch,
            ahead: if batch.is_some() { 0 } else { ahead },
            deadline,
        },
    )
}

/// Whatever can happen.
fn steps() -> impl Strategy<Value = Step> {
    let index = any::<Index>;
    let rarely = || prop::bool::weighted(0.15);
    let kept = (0..100u64, any::<bool>(), any::<bool>());
    let running = prop_oneof![4 => Just(vec![]), 1 => prop::collection::vec(kept, 1..4)];
    prop_oneof![
        20 => submits(),
        3 => index().prop_map(Step::Resubmit),
        3 => index().prop_map(Step::Withdraw),
        2 => index().prop_map(Step::Return),
        1 => index().prop_map(Step::Answer),
        4 => index().prop_map(Step::Cancel),
        2 => (0..100u64).prop_map(|now| Step::Expire { now }),
        3 => (1..7u64).prop_map(Step::Pass),
        6 => (index(), rarely(), running)
            .prop_map(|(slot, stale, running)| Step::Up { slot, stale, running }),
        12 => (index(), index(), rarely(), rarely())
            .prop_map(|(slot, which, stale, wrong)| Step::Idle { slot, which, stale, wrong }),
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
        40 => (index(), index())
            .prop_map(|(slot, which)| Step::Idle { slot, which, stale: false, wrong: false }),
        10 => index().prop_map(Step::Cancel),
        5 => (1..7u64).prop_map(Step::Pass),
        2 => index().prop_map(Step::Resubmit),
        4 => index().prop_map(Step::Withdraw),
        1 => index().prop_map(Step::Return),
        1 => (0..20u64).prop_map(|now| Step::Expire { now }),
        2 => index().prop_map(|slot| Step::Up { slot, stale: false, running: vec![] }),
        1 => index().prop_map(Step::Resize),
    ]
}

/// The scheduler, the model, and who has which request.
struct Trial {
    scheduler: super::super::super::Scheduler<Token>,
    model: Model,
    /// What each worker has.
    hands: Vec<Vec<Token>>,
    /// What was lost with a worker, and neither came back nor was answered yet.
    lost: Vec<Token>,
    /// How often each request ended.
    ended: BTreeMap<Id, usize>,
    next_id: Id,
    /// The most that have waited at once.
    most: usize,
}

impl Trial {
    fn new(slots: usize, seats: usize) -> Self {
        let mut scheduler = super::super::super::Scheduler::new(slots, seats);
        scheduler.max_held = MOST;
        Self {
            scheduler,
            model: Model::new(slots, seats),
            hands: std::iter::repeat_with(Vec::new).take(slots).collect(),
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
        self.lost.append(&mut self.hands[slot]);
    }

    /// The scheduler has decided; the model has decided the same. Returns the slot that may have more to take.
    fn assigned(
        &mut self,
        decision: Option<Assignment<Token>>,
        expected: Option<(usize, u64, Id)>,
    ) -> Option<usize> {
        let found = decision.as_ref().map(|found| (found.slot, found.epoch, found.request.id));
        assert_eq!(found, expected);
        let Assignment { slot, request, .. } = decision?;
        assert!(
            request.wish.place.bound().is_none_or(|wanted| wanted == slot),
            "on the wrong worker"
        );
        let more = request.wish.batch.map(|_| slot);
        self.hands[slot].push(request);
        more
    }

    /// The slot's worker takes what it can; one that is busy takes only what joins the batch that it has begun.
    fn fill(&mut self, slot: usize) {
        loop {
            let expected = self.model.fill(slot);
            let found = self.scheduler.fill(slot, self.model.now);
            if expected.is_none() && found.is_none() {
                break;
            }
            self.assigned(found, expected);
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
    }

    fn submit(&mut self, token: Token) {
        let Token { id, deadline, wish } = token;
        let expected = self.model.arrives(id, deadline, wish, false);
        let decision = self.scheduler.submit(id, deadline, wish, self.model.now, token);
        self.assigned(decision, expected);
    }

    /// The request comes back, as its worker takes no more.
    fn resubmit(&mut self, token: Token) {
        let Token { id, deadline, wish } = token;
        if let Some(slot) = self.model.holder(id) {
            let worker = &mut self.model.workers[slot];
            worker.release(id);
            worker.up = false;
            self.model.tidy();
        }
        let expected = self.model.arrives(id, deadline, wish, true);
        let decision = self.scheduler.resubmit(id, deadline, wish, self.model.now, token);
        self.assigned(decision, expected);
    }

    /// The request comes back, and is not written ahead any more; its worker may have a seat for what waits.
    fn withdraw(&mut self, mut token: Token) {
        token.wish.ahead = 0;
        let Token { id, deadline, wish } = token;
        let slot = self.model.holder(id).unwrap();
        let worker = &mut self.model.workers[slot];
        worker.release(id);
        worker.up &= slot < self.model.open || !worker.held.is_empty();
        self.model.tidy();
        assert_eq!(self.scheduler.withdraw(id), Some(slot));
        let expected = self.model.arrives(id, deadline, wish, true);
        let decision = self.scheduler.resubmit(id, deadline, wish, self.model.now, token);
        self.assigned(decision, expected);
        self.fill(slot);
    }

    /// Whether the request may still run: every second one that is bound to a closed slot has a key, and goes elsewhere.
    fn settle(&mut self, token: &mut Token) -> bool {
        let closed = |slot| self.scheduler.is_closed(slot);
        match &mut token.wish.place {
            Place::Only(slot) | Place::Now(slot) if closed(*slot) => {
                *slot = 0;
                token.id.is_multiple_of(2)
            }
            _ => true,
        }
    }

    /// The slot has a new worker, which holds requests with these deadlines already.
    fn up(&mut self, slot: usize, running: &[(u64, bool, bool)]) {
        self.lose(slot);
        let wish = |alone, short| Wish { alone, ahead: u8::from(short), ..ANY };
        self.hands[slot] = running
            .iter()
            .map(|&(deadline, alone, short)| self.token(deadline, wish(alone, short)))
            .collect();
        let kept = |&Token { id, deadline, wish }: &Token| Kept {
            id,
            deadline,
            alone: wish.alone,
            short: wish.ahead > 0,
        };
        let running: Vec<_> = self.hands[slot].iter().map(kept).collect();
        let worker = &mut self.model.workers[slot];
        worker.vacate();
        (worker.epoch, worker.up, worker.broken) = (worker.epoch + 1, true, false);
        assert!(self.scheduler.up(slot, worker.epoch, &running));
        self.model.adopt(slot, &running);
        self.fill(slot);
    }

    fn step(&mut self, step: &Step) {
        let slots = self.hands.len();
        let now = self.model.now;
        match *step {
            Step::Submit { place, slot, priority, alone, batch, ahead, deadline } => {
                let place = place(slot.index(slots));
                let wish = Wish { priority, place, alone, batch, ahead, key: None };
                let token = self.token(deadline, wish);
                let busy = |slot| {
                    matches!(place, Place::Now(_)) && !self.scheduler.is_free(slot, wish, now)
                };
                if place.bound().is_some_and(|slot| self.scheduler.is_closed(slot) || busy(slot)) {
                    // Its submitter refuses it.
                    self.end(&token);
                    return;
                }
                self.submit(token);
            }
            Step::Resubmit(which) => {
                let held: Vec<_> = self.hands.iter().flatten().map(|token| token.id).collect();
                if !held.is_empty() {
                    let id = held[which.index(held.len())];
                    let slot = self.model.holder(id).unwrap();
                    let at = self.hands[slot].iter().position(|token| token.id == id).unwrap();
                    let mut token = self.hands[slot].swap_remove(at);
                    if self.settle(&mut token) {
                        self.resubmit(token);
                    } else {
                        // Its caller has an answer; its worker still has it.
                        self.hands[slot].push(token);
                    }
                }
            }
            Step::Withdraw(which) => {
                let held: Vec<_> = self.hands.iter().flatten().map(|token| token.id).collect();
                if !held.is_empty() {
                    let id = held[which.index(held.len())];
                    let slot = self.model.holder(id).unwrap();
                    let bound = |token: &Token| token.wish.place.bound();
                    let at = self.hands[slot].iter().position(|token| token.id == id).unwrap();
                    if bound(&self.hands[slot][at]).is_none_or(|slot| slot < self.model.open) {
                        let token = self.hands[slot].swap_remove(at);
                        self.withdraw(token);
                    }
                }
            }
            Step::Return(which) => {
                if !self.lost.is_empty() {
                    let mut token = self.lost.swap_remove(which.index(self.lost.len()));
                    if self.settle(&mut token) { self.resubmit(token) } else { self.end(&token) }
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
            Step::Pass(millis) => self.model.now = now + Duration::from_millis(millis),
            Step::Up { slot, stale, ref running } => {
                let slot = slot.index(slots);
                let epoch = self.model.workers[slot].epoch;
                if stale {
                    assert!(!self.scheduler.up(slot, epoch.min(1), &[]), "an earlier incarnation");
                    return;
                }
                if running.is_empty() && self.scheduler.is_closed(slot) {
                    assert!(!self.scheduler.up(slot, epoch + 1, &[]), "it is closed");
                    return;
                }
                self.up(slot, running);
            }
            Step::Idle { slot, which, stale, wrong } => {
                let slot = slot.index(slots);
                let hand = &self.hands[slot];
                let at = (!hand.is_empty()).then(|| which.index(hand.len()));
                let held = at.map_or(0, |at| hand[at].id);
                let worker = &mut self.model.workers[slot];
                let epoch = if stale { worker.epoch.wrapping_sub(1) } else { worker.epoch };
                let id = if wrong { self.next_id } else { held };
                let mut expected = None;
                if let Some(at) = at.filter(|_| !stale && !wrong) {
                    assert!(worker.release(held));
                    worker.up &= slot < self.model.open || !worker.held.is_empty();
                    let token = self.hands[slot].swap_remove(at);
                    self.end(&token);
                    expected = self.model.fill(slot);
                }
                let decision = self.scheduler.idle(slot, epoch, id, now);
                self.assigned(decision, expected);
                // As its caller does.
                if self.scheduler.takes_more(slot) {
                    self.fill(slot);
                }
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
                found.iter().for_each(|token| self.end(token));
            }
            Step::Resize(open) => {
                let open = open.index(slots) + 1;
                let found = self.scheduler.resize(open);
                let before = std::mem::replace(&mut self.model.open, open);
                for worker in &mut self.model.workers[open..] {
                    worker.up &= !worker.held.is_empty();
                    worker.broken = false;
                }
                self.model.tidy();
                self.returned(&found, |wanted| wanted.is_some_and(|slot| slot >= open));
                // Its caller does all this.
                for slot in before..open {
                    self.fill(slot);
                }
                for mut token in found {
                    if self.settle(&mut token) { self.submit(token) } else { self.end(&token) }
                }
                if self.scheduler.all_broken() {
                    self.drain();
                }
            }
            Step::Drain => self.drain(),
        }
    }

    fn drain(&mut self) {
        let found = self.scheduler.drain();
        self.returned(&found, |_| true);
        found.iter().for_each(|token| self.end(token));
    }

    fn check(&mut self) {
        let Self { scheduler, model, .. } = self;
        // The invariant of the module's head.
        assert!(model.is_settled(), "a worker could run what is queued");
        let wishes = [(false, None), (true, None), (false, Some(0)), (true, Some(0))];
        for (slot, worker) in model.workers.iter().enumerate() {
            for (alone, handler) in wishes {
                let batch = handler.map(|handler| Batch { handler, size: 2, wait: Duration::ZERO });
                let wish = Wish { alone, batch, ..ANY };
                let free = scheduler.is_free(slot, wish, model.now);
                assert_eq!(free, model.takes(slot, wish), "slot {slot}");
            }
            assert_eq!(scheduler.is_broken(slot), worker.broken, "slot {slot}");
            assert_eq!(scheduler.slots[slot].taken, worker.seats_taken(), "slot {slot}");
            let seats = model.has_seat(slot).then_some(worker.seats_taken());
            assert_eq!(scheduler.free.of(slot), seats, "slot {slot}");
            let room = model.has_room(slot).then_some(worker.held.len());
            assert_eq!(scheduler.room.of(slot), room, "slot {slot}");
            assert!(worker.held.len() <= MOST.max(3), "it is given no more than it may have");
        }
        let mut busy: Vec<_> = scheduler.running.iter().map(|(&id, &slot)| (slot, id)).collect();
        busy.sort_unstable();
        let held = |slot: usize| model.workers[slot].held.iter().map(move |held| (slot, held.id));
        let mut held: Vec<_> = (0..model.workers.len()).flat_map(held).collect();
        held.sort_unstable();
        assert_eq!(busy, held);
        let hands = self.hands.iter().enumerate();
        let mut hands: Vec<_> =
            hands.flat_map(|(slot, hand)| hand.iter().map(move |token| (slot, token.id))).collect();
        hands.sort_unstable();
        assert_eq!(busy, hands);
        assert_eq!(scheduler.next_deadline(), model.deadlines().first().map(|&(when, _)| when));
        assert_eq!(scheduler.queued.len(), model.queue.len());
        let all_broken = model.workers[..model.open].iter().all(|worker| worker.broken);
        assert_eq!(scheduler.all_broken(), all_broken);
        assert_eq!(scheduler.deadlines.len(), model.deadlines().len());
        self.most = self.most.max(scheduler.queued.len());
        assert_bounded(scheduler, self.most);
        scheduler.assert_batches();
    }

    /// Lets everything end, and sees that it ended once, and that nothing is left of it.
    fn finish(mut self) {
        for slot in 0..self.hands.len() {
            self.model.workers[slot].vacate();
            self.scheduler.down(slot, self.model.workers[slot].epoch);
            self.lose(slot);
        }
        self.drain();
        self.check();
        assert!(self.scheduler.running.is_empty() && self.scheduler.free.first().is_none());
        self.scheduler.assert_nothing_is_gathered();
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
        seats in 1..5usize,
        steps in prop::collection::vec(steps(), 0..150),
    ) {
        try_out(Trial::new(slots, seats), &steps);
    }

    #[test]
    fn it_decides_as_the_model_does_of_one_seat(
        slots in 1..5usize,
        steps in prop::collection::vec(steps(), 0..150),
    ) {
        try_out(Trial::new(slots, 1), &steps);
    }

    #[test]
    fn it_decides_as_the_model_does_under_load(
        slots in 1..4usize,
        seats in 1..5usize,
        steps in prop::collection::vec(busy_steps(), 0..400),
    ) {
        let mut trial = Trial::new(slots, seats);
        (0..slots).for_each(|slot| trial.up(slot, &[]));
        try_out(trial, &steps);
    }
}

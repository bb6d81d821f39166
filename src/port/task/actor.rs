//! What is different about the port of an actor: there is one at a time, and it gets what its instance is built from.

use super::start::told_to_stop;
use super::{Live, PortTask};
use crate::error::StartError;
use crate::port::desk;
use crate::session::{Key, Operation, Scope, Space};
use crate::wire::{FrameBuilder, Kind};

impl PortTask {
    /// Two instances of one actor never live at the same time: the second would not know what the first still does.
    pub(super) async fn wait_for_predecessor(&mut self) -> Result<(), StartError> {
        if self.shared.config.actor.is_none() {
            return Ok(());
        }
        tokio::select! {
            _ = told_to_stop(&mut self.actor_gone, &mut self.commands) => {
                Err(StartError::Stopped { what: self.name.clone() })
            }
            () = self.shared.board.alone(self.slot) => Ok(()),
        }
    }

    /// Sends what the instance is built from: its arguments, then its state. The state is read this late so that it is
    /// that of the predecessor's last save.
    pub(super) async fn introduce(&mut self, live: &mut Live) -> Result<(), StartError> {
        let Some(actor) = &self.shared.config.actor else {
            return Ok(());
        };
        let limit = self.shared.config.limits.max_frame;
        let mut init = FrameBuilder::new(Kind::Init, &actor.state_key());
        init.json().extend_from_slice(&actor.args);
        let init = init.finish(0, actor.save_every.into(), limit).map_err(|size| {
            let what = format!("actor `{}`", actor.name);
            StartError::Protocol { what, message: format!("its arguments take {size} bytes") }
        })?;
        live.port.send(init.into());
        let key = Key { scope: Scope::Global, space: Space::Value, name: actor.state_key() };
        let state = self.shared.sessions.execute(Operation::Get { key, known: None });
        let state = tokio::select! {
            _ = told_to_stop(&mut self.actor_gone, &mut self.commands) => {
                return Err(StartError::Stopped { what: self.name.clone() });
            }
            state = state => state,
        };
        // A store that fails is Python's to tell of, as what its own question would have come to.
        live.port.send(desk::encode(0, state, limit));
        Ok(())
    }
}

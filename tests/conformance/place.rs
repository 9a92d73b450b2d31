//! Where a script runs: the nodes that its actors connect to, and what may be done to them.

use std::net::SocketAddr;
use std::time::Duration;

use testkit::let_pass;

use crate::barrier::Barrier;
use crate::killer::Killer;

/// Where no barrier can be set up, this long must do.
const QUIET: Duration = Duration::from_millis(300);

/// The nodes of a broker.
pub(crate) struct Place<'a> {
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) barrier: Option<&'a Barrier>,
    /// The kill form: its own cluster.
    pub(crate) killer: Option<&'a mut Killer>,
}

impl Place<'_> {
    /// The nodes of actors, in their order: different ones. Where nodes are killed, those who stay
    /// are elsewhere.
    pub(crate) fn nodes_of(&self, names: &[&str], fails_over: impl Fn(&str) -> bool) -> Vec<usize> {
        let count = self.addresses.len();
        let in_turn = |place: usize| place % count + 1;
        let failing = names.iter().filter(|name| fails_over(name)).count();
        let safe = count.saturating_sub(failing);
        if self.killer.is_none() || safe == 0 || failing == 0 {
            return (0..names.len()).map(in_turn).collect();
        }
        let (mut failed, mut stayed) = (0, 0);
        let mut place = |name: &&str| {
            if fails_over(name) {
                failed += 1;
                failed
            } else {
                stayed += 1;
                failing + (stayed - 1) % safe + 1
            }
        };
        names.iter().map(&mut place).collect()
    }

    /// A node of this number, if there is one.
    pub(crate) fn existing(&self, node: usize) -> usize {
        if node <= self.addresses.len() {
            node
        } else {
            1
        }
    }

    /// This node, or the next one if it was killed.
    pub(crate) fn living(&self, node: usize) -> usize {
        let is_dead = self
            .killer
            .as_ref()
            .is_some_and(|killer| killer.is_dead(node));
        if is_dead {
            self.elsewhere(node, &[])
        } else {
            node
        }
    }

    /// Where clients of a node connect.
    pub(crate) fn address(&self, node: usize) -> SocketAddr {
        let index = (node - 1) % self.addresses.len();
        self.addresses[index]
    }

    /// Another node, if there is one; one that nobody is connected to, if there is one.
    pub(crate) fn elsewhere(&self, node: usize, others: &[usize]) -> usize {
        let count = self.addresses.len();
        let mut next = (node..node + count - 1).map(|index| index % count + 1);
        let first = next.clone().next();
        next.find(|other| !others.contains(other))
            .or(first)
            .unwrap_or(node)
    }

    /// Kills a node, in the kill form, unless it is to be spared.
    pub(crate) async fn kill(&mut self, node: usize, is_spared: bool) -> bool {
        match &mut self.killer {
            Some(killer) if !is_spared => {
                killer.kill(node).await;
                true
            }
            _ => false,
        }
    }

    /// Waits until everything that `node` began before has happened on all nodes.
    pub(crate) async fn pass_barrier(&self, node: usize) -> Result<(), String> {
        if self
            .killer
            .as_ref()
            .is_some_and(|killer| killer.is_dead(node))
        {
            return Ok(());
        }
        let barrier = self.killer.as_ref().map(|killer| killer.barrier());
        match barrier.or(self.barrier) {
            Some(barrier) => barrier.pass(node).await,
            None => {
                let_pass(QUIET).await;
                Ok(())
            }
        }
    }
}

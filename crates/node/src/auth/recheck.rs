//! What a reload of the rules and credentials means for a connection that is open.

use std::sync::Arc;

use codec::TopicFilter;

use super::policy::AccessPolicy;
use crate::acl::{Grant, Rights, Subject};
use crate::connection::Connection;
use crate::end::End;

impl Connection {
    /// Takes a new policy over.
    ///
    /// # Errors
    /// The client would not be let in any more, or not with its will.
    pub(crate) fn take_access(&mut self, policy: Arc<AccessPolicy>) -> Result<(), End> {
        let client = &mut self.client;
        let client_id = client.client_id.as_str();
        client
            .principal
            .recheck(&policy, client_id, &client.origin)
            .map_err(|refused| End::closed(refused.reason_code, refused.cause))?;
        let subject = Subject {
            user: client.principal.user(),
            client_id,
            groups: &client.principal.groups,
        };
        client.rights = Rights::new(&policy.rules, subject);
        client.policy = policy;
        let will = client.will_topic.as_ref();
        if will.is_some_and(|topic| !client.rights.may_publish(topic)) {
            return Err(End::WillDenied);
        }
        self.holds_back = false;
        let filters = self.life.registry.filters(self.client.holder.connection);
        self.recheck_subscriptions(filters.iter());
        Ok(())
    }

    /// Looks at subscriptions that were granted under other rules, or may have been: what is not
    /// allowed of them is held back, and shared ones end.
    pub(crate) fn recheck_subscriptions<'a>(
        &mut self,
        filters: impl Iterator<Item = &'a TopicFilter>,
    ) {
        if !self.client.rights.are_limited() {
            return;
        }
        let mut ended = Vec::new();
        for filter in filters {
            match self.client.rights.grant(filter) {
                Grant::Whole => {}
                // What one member does not get would be lost for the others too.
                Grant::Denied if filter.is_shared() => ended.push(filter.clone()),
                Grant::InPart | Grant::Denied => self.holds_back = true,
            }
        }
        if !ended.is_empty() {
            tracing::info!(
                client_id = self.client.client_id.as_str(),
                count = ended.len(),
                "shared subscriptions are not allowed any more and end"
            );
            self.end_subscriptions(ended);
        }
    }
}

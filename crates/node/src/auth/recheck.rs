//! What a reload of the rules and credentials means for a connection that is open.

use std::sync::Arc;

use codec::{ReasonCode, TopicFilter};

use super::policy::{AccessPolicy, BANNED};
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
        let admitted = client.principal.recheck(&policy, client_id, &client.origin);
        let subject = Subject {
            user: client.principal.user(),
            client_id,
            groups: &client.principal.groups,
        };
        client.rights = Rights::new(&policy.rules, subject);
        client.policy = policy;
        let will = client.will_topic.as_ref();
        let is_will_denied = will.is_some_and(|topic| !client.rights.may_publish(topic));
        match admitted {
            Ok(()) if is_will_denied => {
                return Err(End::Expelled(ReasonCode::NotAuthorized, "acl"));
            }
            Ok(()) => {}
            // Nor is the will published of who is banned.
            Err(refused) if is_will_denied || refused.cause == BANNED => {
                return Err(End::Expelled(refused.reason_code, refused.cause));
            }
            Err(refused) => return Err(End::closed(refused.reason_code, refused.cause)),
        }
        let filters = self.life.registry.filters(self.client.holder.connection);
        self.recheck_subscriptions(filters.iter());
        Ok(())
    }

    /// Looks at subscriptions that were granted under other rules, or may have been: shared ones that
    /// are not allowed end, and of everything that is delivered from now on the topic is looked at. A
    /// session's messages outlive its subscriptions, so those that it has now do not tell what waits.
    pub(crate) fn recheck_subscriptions<'a>(
        &mut self,
        filters: impl Iterator<Item = &'a TopicFilter>,
    ) {
        self.holds_back = self.client.rights.are_limited();
        if !self.holds_back {
            return;
        }
        let mut ended = Vec::new();
        for filter in filters {
            // What one member does not get would be lost for the others too.
            if filter.is_shared() && self.client.rights.grant(filter) == Grant::Denied {
                ended.push(filter.clone());
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

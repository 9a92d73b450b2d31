//! The table of shared subscriptions against a plain list of memberships.

#[path = "model/scan.rs"]
mod scan;

use std::collections::BTreeMap;

use codec::{TopicFilter, TopicName};
use proptest::prelude::*;
use router::SharedTable;
use scan::{filter_matches, filters, topics};

#[derive(Clone, Debug)]
enum Step {
    Subscribe(u8, TopicFilter, u32),
    Unsubscribe(u8, TopicFilter),
    Update(u8, TopicFilter),
    Remove(u8),
    Find(TopicName),
}

/// Few groups, so that members meet in them; some filters are not shared.
fn shared_filters() -> impl Strategy<Value = TopicFilter> {
    let prefix = prop::sample::select(&["$share/g/", "$share/h/", "$share/$share/", ""]);
    (prefix, filters()).prop_filter_map("an empty level may not follow", |(prefix, filter)| {
        TopicFilter::try_from(format!("{prefix}{filter}").as_str()).ok()
    })
}

fn members() -> impl Strategy<Value = u8> {
    prop_oneof![0..4_u8, 0..40_u8]
}

fn steps(groups: Vec<TopicFilter>) -> impl Strategy<Value = Vec<Step>> {
    let group = prop::sample::select(groups);
    let step = prop_oneof![
        8 => (members(), group.clone(), any::<u32>()).prop_map(|(k, f, v)| Step::Subscribe(k, f, v)),
        4 => (members(), group.clone()).prop_map(|(k, f)| Step::Unsubscribe(k, f)),
        2 => (members(), group).prop_map(|(k, f)| Step::Update(k, f)),
        1 => members().prop_map(Step::Remove),
        5 => topics().prop_map(Step::Find),
    ];
    prop::collection::vec(step, 1..200)
}

type Model = BTreeMap<TopicFilter, BTreeMap<u8, u32>>;

fn matching(model: &Model, topic: &TopicName) -> Model {
    let groups = model.iter().filter(|(filter, members)| {
        let inner = filter.share().map(|(_, inner)| inner);
        !members.is_empty() && inner.is_some_and(|inner| filter_matches(&inner, topic))
    });
    groups.map(|(f, m)| (f.clone(), m.clone())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// [MQTT-4.8.2-1] [MQTT-4.7.2-1] [MQTT-3.8.4-3] [MQTT-3.10.4-1]
    #[test]
    fn the_shared_table_agrees_with_a_list(
        steps in prop::collection::vec(shared_filters(), 1..8).prop_flat_map(steps),
    ) {
        let mut table = SharedTable::new();
        let mut model = Model::new();
        for step in steps {
            match step {
                Step::Subscribe(member, filter, value) => {
                    let replaced = table.subscribe(member, &filter, value);
                    let expected = filter.is_shared().then(|| {
                        model.entry(filter).or_default().insert(member, value)
                    });
                    prop_assert_eq!(replaced, expected.flatten());
                }
                Step::Unsubscribe(member, filter) => {
                    let removed = table.unsubscribe(&member, &filter);
                    let expected = model.get_mut(&filter).and_then(|group| group.remove(&member));
                    prop_assert_eq!(removed, expected);
                }
                Step::Update(member, filter) => {
                    let up = |value: &mut u32| {
                        *value = value.wrapping_add(1);
                        *value
                    };
                    let changed = table.update(&member, &filter, up);
                    let group = model.get_mut(&filter);
                    prop_assert_eq!(changed, group.and_then(|group| group.get_mut(&member)).map(up));
                    prop_assert_eq!(table.get(&member, &filter).copied(), changed);
                }
                Step::Remove(member) => {
                    table.remove(&member);
                    for group in model.values_mut() {
                        group.remove(&member);
                    }
                }
                Step::Find(topic) => {
                    let mut found = Model::new();
                    let mut visits = 0;
                    table.for_each_group(&topic, |filter, members| {
                        visits += 1;
                        let members = members.iter().map(|(k, v)| (*k, *v)).collect();
                        found.insert(filter.as_ref().clone(), members);
                    });
                    prop_assert_eq!(visits, found.len());
                    prop_assert_eq!(found, matching(&model, &topic));
                }
            }
            prop_assert_eq!(table.len(), model.values().map(BTreeMap::len).sum::<usize>());
        }
        for (filter, members) in &model {
            let listed = table.members(filter);
            prop_assert_eq!(listed.len(), members.len());
            prop_assert!(listed.iter().eq(members.iter()));
        }
        for member in 0..40 {
            let groups = model.iter().filter(|(_, members)| members.contains_key(&member));
            let listed = table.groups_of(&member).map(AsRef::as_ref);
            prop_assert!(listed.eq(groups.map(|(filter, _)| filter)));
        }
    }
}

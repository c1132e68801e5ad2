//! What is printed in the end.

use std::time::Duration;

use pontoon_tests::Section;

use crate::judge::{Course, OF_A_PROCESS, OF_EACH, Quantity};

/// What is shown and not judged.
const SHOWN: [Quantity; 2] = [
    Quantity { name: "entries written", bytes: false, of: |sample| sample.entries },
    Quantity { name: "starts", bytes: false, of: |sample| sample.starts as u64 },
];

/// A table of what was sampled.
pub(crate) fn table(courses: &[Course], length: Duration, how: String) -> Section {
    let judged = [OF_A_PROCESS].into_iter().chain(OF_EACH).map(|limit| limit.quantity);
    let quantities: Vec<Quantity> = judged.chain(SHOWN).collect();
    let rows = courses.iter().flat_map(|course| quantities.iter().map(move |quantity| row(course, length, quantity)));
    Section {
        title: "Soak",
        how,
        header: vec!["node", "what", "at first", "second quarter", "last quarter", "at last", "greatest"],
        rows: rows.collect(),
    }
}

fn row(course: &Course, length: Duration, quantity: &Quantity) -> Vec<String> {
    let ends =
        [course.samples.first(), course.samples.last()].map(|sample| sample.map(quantity.of).unwrap_or_default());
    let [second, last] = [1, 3].map(|quarter| course.median(length, quarter, quantity));
    let values = [ends[0], second, last, ends[1], course.greatest(quantity)].map(|value| quantity.show(value));
    [vec![course.node.clone(), quantity.name.to_owned()], values.to_vec()].concat()
}

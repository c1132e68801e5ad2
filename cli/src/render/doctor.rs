//! `pontoon doctor`.

use pontoon_proto::v1::{Check, Finding, Level};

use super::{name, section, table};

/// What was found, what to do about it, and how much of each there is.
pub(crate) fn findings(findings: &[Finding]) -> String {
    let rows = findings.iter().map(|finding| {
        let (check, level) = (name::<Check>(finding.check), name::<Level>(finding.level));
        [check, level, finding.evidence.clone()]
    });
    let text = table(&["CHECK", "RESULT", "EVIDENCE"], rows);
    text + &section("What to do", &cures(findings)) + "\n" + &sum(findings)
}

/// Failures first; what is the same for several, once.
fn cures(findings: &[Finding]) -> String {
    let mut lines: Vec<String> = Vec::new();
    for level in [Level::Failure, Level::Warning] {
        for finding in findings.iter().filter(|finding| finding.level == i32::from(level) && !finding.cure.is_empty()) {
            let (check, subject) = (name::<Check>(finding.check), &finding.subject);
            let about = if subject.is_empty() { check } else { format!("{check} {subject}") };
            let line = format!("- {about}: {}\n", finding.cure);
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
    lines.concat()
}

fn sum(findings: &[Finding]) -> String {
    let count = |level: Level| findings.iter().filter(|finding| finding.level == i32::from(level)).count();
    let many = |level: Level| {
        let (number, name) = (count(level), name::<Level>(level.into()));
        if number == 1 { format!("1 {name}") } else { format!("{number} {name}s") }
    };
    format!("{}, {}, {} ok\n", many(Level::Failure), many(Level::Warning), count(Level::Ok))
}

#[cfg(test)]
mod tests {
    use super::super::tests::golden;
    use super::*;

    fn finding(check: Check, level: Level, subject: &str, evidence: &str, cure: &str) -> Finding {
        Finding {
            check: check.into(),
            level: level.into(),
            subject: subject.into(),
            evidence: evidence.into(),
            cure: cure.into(),
        }
    }

    #[test]
    fn a_diagnosis() {
        let mut found = vec![
            finding(Check::Cluster, Level::Ok, "", "node host1 (id 2) of cluster 00ff, which has 3 nodes", ""),
            finding(
                Check::Quorum,
                Level::Warning,
                "",
                "2 of 3 voters must agree, and do; none may fail",
                "bring back host3",
            ),
            finding(Check::Peers, Level::Ok, "host2", "node host2 answers at 192.168.140.201:7300 in 2 ms", ""),
            finding(Check::Peers, Level::Failure, "host3", "node host3: nobody answers", "start pontoond on host3"),
            finding(
                Check::Routes,
                Level::Warning,
                "db",
                "10.0.0.0/8 by tun0 overlaps network db",
                "choose another subnet",
            ),
            finding(
                Check::Routes,
                Level::Warning,
                "db",
                "10.1.0.0/16 by tun1 overlaps network db",
                "choose another subnet",
            ),
        ];
        golden(
            &findings(&found),
            "
CHECK     RESULT    EVIDENCE
cluster   ok        node host1 (id 2) of cluster 00ff, which has 3 nodes
quorum    warning   2 of 3 voters must agree, and do; none may fail
peers     ok        node host2 answers at 192.168.140.201:7300 in 2 ms
peers     failure   node host3: nobody answers
routes    warning   10.0.0.0/8 by tun0 overlaps network db
routes    warning   10.1.0.0/16 by tun1 overlaps network db

What to do:
- peers host3: start pontoond on host3
- quorum: bring back host3
- routes db: choose another subnet

1 failure, 3 warnings, 2 ok
",
        );
        found.truncate(1);
        golden(
            &findings(&found),
            "
CHECK     RESULT   EVIDENCE
cluster   ok       node host1 (id 2) of cluster 00ff, which has 3 nodes

0 failures, 0 warnings, 1 ok
",
        );
    }

    #[test]
    fn a_diagnosis_as_json() {
        let found = finding(Check::Peers, Level::Failure, "host3", "nobody answers", "start pontoond");
        let expected = r#"{"check":"peers","level":"failure","subject":"host3","evidence":"nobody answers","cure":"start pontoond"}"#;
        assert_eq!(serde_json::to_string(&found).unwrap(), expected);
        // Of a newer daemon.
        let newer = Finding { check: 77, level: 78, ..found };
        assert!(findings(std::slice::from_ref(&newer)).contains("\n77      78       nobody answers\n"));
        assert!(serde_json::to_string(&newer).unwrap().starts_with(r#"{"check":77,"level":78,"#));
    }
}

//! Tables of what is left in an engine: networks of a cluster that its node has left.

use super::*;

#[test]
fn what_a_node_that_leaves_takes_with_it() {
    let mut world = World::new();
    let web = world.network("web");
    let networks = vec![foreign("f", "mine"), of_cluster("w", &web), own("a", "app"), own("i", "idle")];
    let containers = vec![
        container("c1", &[("f", "c1-ep"), ("w", "")]),
        container("c2", &[("w", "c2-ep")]),
        container("c3", &[("a", "")]),
        container("c4", &[("f", "")]),
    ];
    let plan = leaving(&Seen { networks, containers });
    assert_eq!(plan.steps, [Step::Remove { id: "i".to_owned(), name: "idle".to_owned() }]);
    let [web, app] = plan.problems.as_slice() else { panic!("{:?}", plan.problems) };
    let disconnects = ["docker network disconnect --force web c1", "docker network disconnect --force web c2"];
    for words in ["web", "c1, c2 are", "docker network rm web"].iter().chain(&disconnects) {
        assert!(web.contains(words), "no {words:?} in {web}");
    }
    assert!(app.contains("c3 is") && app.contains("docker network rm app"), "{app}");
    let said = left_behind(&["web".to_owned(), "app".to_owned()]);
    assert!(said.contains("docker network rm web app"), "{said}");
    assert!(left_behind(&[]).contains("docker network ls --filter driver=pontoon"), "{}", left_behind(&[]));
}

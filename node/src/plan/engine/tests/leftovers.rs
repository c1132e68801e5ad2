//! Tables of what is left in an engine: networks of a cluster that its node has left, and containers without their network.

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
    let plan = leaving(&Seen { networks, containers, ..Seen::default() });
    assert_eq!(plan.steps, [Step::Remove { id: "i".to_owned(), name: "idle".to_owned(), cluster: None }]);
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

/// A container on a network that it knows by this id and this name.
fn known_as(name: &str, id: &str, network: &str) -> SeenContainer {
    let mut container = container(name, &[(id, "")]);
    network.clone_into(&mut container.attachments[0].name);
    container
}

#[test]
fn a_container_is_put_on_its_network_again() {
    let mut world = World::new();
    let web = world.network("web");
    world.reported(world.me, &web, "new", &[]);
    let ask = |networks: Vec<SeenNetwork>, container: SeenContainer| {
        let past = BTreeSet::from(["old".to_owned()]);
        plan(&world.state, world.me, &Seen { networks, containers: vec![container], past, ..Seen::default() })
    };
    let again =
        Step::Reconnect { name: "web".to_owned(), container_id: "c1-id".to_owned(), container: "c1".to_owned() };
    let here = || vec![of_cluster("new", &web)];
    assert_eq!(ask(here(), known_as("c1", "old", "web")).steps, [again]);
    // It runs, its network is there, it was on another one, or there is none to put it on.
    let runs = SeenContainer { stopped: false, ..known_as("c1", "old", "web") };
    assert_eq!(ask(here(), runs), EnginePlan::default());
    let both = || here().into_iter().chain([foreign("old", "web")]).collect();
    assert_eq!(ask(both(), known_as("c1", "old", "web")), EnginePlan::default());
    assert_eq!(ask(here(), known_as("c1", "old", "db")), EnginePlan::default());
    let reconnects = |plan: &EnginePlan| plan.steps.iter().any(|step| matches!(step, Step::Reconnect { .. }));
    assert!(!reconnects(&ask(vec![], known_as("c1", "old", "web"))));
    // Whose the other one was is not known: it can have been a bridge, which nobody else was on.
    let plan = ask(here(), known_as("c1", "other", "web"));
    let [problem] = plan.problems.as_slice() else { panic!("{plan:?}") };
    for words in ["c1", "docker network disconnect --force web c1", "docker network connect web c1"] {
        assert!(problem.contains(words), "no {words:?} in {problem}");
    }
    assert_eq!(plan.steps, []);
}

#[test]
fn a_network_that_has_no_name_yet_gets_no_container() {
    let mut world = World::new();
    world.made(world.me, "new").unwrap();
    let containers = vec![known_as("c1", "old", "web")];
    let seen = Seen {
        networks: vec![own("new", "web")],
        containers,
        past: BTreeSet::from(["old".to_owned()]),
        ..Seen::default()
    };
    assert_eq!(texts(&plan(&world.state, world.me, &seen)).len(), 1, "only its name is told");
}

#[test]
fn what_was_the_clusters_is_remembered_while_a_container_speaks_of_it() {
    let ids = |all: &[&str]| all.iter().map(|&id| id.to_owned()).collect::<BTreeSet<String>>();
    let look = |on: &[(&str, &str)]| Seen { containers: vec![container("c1", on)], ..Seen::default() };
    let first = look(&[("a", "")]).after(&Seen { past: ids(&["z"]), ..Seen::default() }, ids(&["a", "b"]));
    assert_eq!(first.past, ids(&["a", "b"]));
    // They are gone; another one was none of the cluster's.
    let second = look(&[("a", ""), ("f", "")]).after(&first, ids(&[]));
    assert_eq!(second.past, ids(&["a"]));
    let third = look(&[("a", "")]).after(&second, ids(&["c"]));
    assert_eq!(third.past, ids(&["a", "c"]));
    assert_eq!(look(&[]).after(&third, ids(&[])).past, ids(&[]));
}

/// The first networks of two clusters have the same id.
#[test]
fn a_network_of_another_cluster_is_not_taken_for_this_ones() {
    let mut world = World::new();
    let web = world.network("web");
    let another = ClusterId(8);
    let left = SeenNetwork { cluster: Some(another), ..of_cluster("l", &web) };
    let unsaid = SeenNetwork { cluster: None, ..of_cluster("l", &web) };
    for left in [&left, &unsaid] {
        let remove = Step::Remove { id: "l".to_owned(), name: "web".to_owned(), cluster: left.cluster };
        let plan = world.planned(vec![left.clone()], vec![]);
        assert_eq!((plan.steps, plan.problems), (vec![remove, Step::Create(web.clone())], vec![]));
        // Whoever is on it keeps it, and the one of this cluster waits.
        let plan = world.planned(vec![left.clone()], vec![container("c1", &[("l", "")])]);
        assert_eq!(plan.steps, []);
        let [problem] = plan.problems.as_slice() else { panic!("{:?}", plan.problems) };
        for words in ["network web", "c1", "docker network rm web"] {
            assert!(problem.contains(words), "no {words:?} in {problem}");
        }
        assert_eq!(problem.contains(&another.to_string()), left.cluster.is_some(), "{problem}");
        assert!(!left.is_for(&world.state, web.id) && of_cluster("w", &web).is_for(&world.state, web.id));
    }
    // One that the cluster was told of is its own, whatever its options say.
    world.reported(world.me, &web, "l", &[]);
    assert_eq!(world.planned(vec![unsaid], vec![]), EnginePlan::default());
}

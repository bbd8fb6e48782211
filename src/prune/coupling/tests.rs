use super::*;

fn problem<T: std::fmt::Debug>(result: Result<T>) -> String {
    match result {
        Err(Error::Coupling { problem }) => problem,
        other => panic!("expected a coupling that is refused, got {other:?}"),
    }
}

#[test]
fn channels_that_differ_cannot_be_added() {
    let mut net = Coupling::new();
    let image = net.input(3).unwrap();
    let a = net.layer("a", image, 8).unwrap();
    let b = net.layer("b", image, 4).unwrap();
    assert_eq!(
        problem(net.add(&[a, b])),
        "4 channels of b cannot be the same as 8 channels of a"
    );
    // As many entries, but other blocks.
    let flat = net.flatten(b, 2).unwrap();
    assert!(problem(net.add(&[a, flat])).contains("in blocks of 2"));
    assert!(problem(net.add(&[])).contains("nothing to add"));
    assert!(problem(net.concat(&[])).contains("nothing to concatenate"));
}

#[test]
fn ties_reach_through_chains() {
    let mut net = Coupling::new();
    let image = net.input(1).unwrap();
    let nodes: Vec<Channels> = ["a", "b", "c", "d"]
        .iter()
        .map(|name| net.layer(name, image, 5).unwrap())
        .collect();
    net.tie(nodes[3], nodes[2]).unwrap();
    net.tie(nodes[1], nodes[3]).unwrap();
    let all = net.concat(&nodes).unwrap();
    let out = net.layer("out", all, 2).unwrap();
    net.output(out).unwrap();
    let groups = net.groups().unwrap();
    assert_eq!(groups.len(), 2);
    assert_eq!(groups[0].members(), ["a"]);
    assert_eq!(groups[1].members(), ["b", "c", "d"]);
    // What is tied to an output is never pruned.
    net.output(nodes[2]).unwrap();
    assert_eq!(net.groups().unwrap().len(), 1);
}

#[test]
fn an_output_that_was_not_declared_is_an_error() {
    let mut net = Coupling::new();
    let image = net.input(1).unwrap();
    net.layer("out", image, 5).unwrap();
    assert!(problem(net.groups()).contains("out"));
}

#[test]
fn grouped_convolutions_need_blocks() {
    let mut net = Coupling::new();
    let image = net.input(3).unwrap();
    let loose = net.layer("a", image, 8).unwrap();
    assert!(problem(net.grouped("g", loose, 4, 16)).contains("8 channels of a"));
    let blocks = net.layer_of_blocks("b", image, 4, 2).unwrap();
    assert!(problem(net.grouped("g", blocks, 4, 15)).contains("15 channels"));
    assert!(net.grouped("g", blocks, 4, 16).is_ok());
    assert!(problem(net.depthwise("d", blocks)).contains("depthwise"));
    assert!(net.depthwise("e", loose).is_ok());
}

#[test]
fn sizes_beyond_counting_are_refused() {
    let mut net = Coupling::new();
    assert!(net.input(0).is_err());
    let image = net.input(2).unwrap();
    assert!(net.layer("a", image, 0).is_err());
    assert!(net.layer_of_blocks("a", image, usize::MAX, 2).is_err());
    assert!(net.flatten(image, 0).is_err());
    assert!(net.flatten(image, usize::MAX).is_err());
    let wide = net.flatten(image, usize::MAX / 2).unwrap();
    let both = net.concat(&[wide, wide]).unwrap();
    assert!(matches!(
        net.depthwise("d", both),
        Err(Error::Overflow { .. })
    ));
}

#[test]
fn channels_of_another_network_are_refused() {
    let mut other = Coupling::new();
    let image = other.input(2).unwrap();
    let foreign = other.layer("a", image, 2).unwrap();
    assert!(Coupling::new().relu(foreign).is_err());
}

#[test]
fn shared_weights_tie_what_they_read_and_make() {
    let mut net = Coupling::new();
    let image = net.input(2).unwrap();
    let a = net.layer("a", image, 6).unwrap();
    let b = net.layer("b", image, 6).unwrap();
    let left = net.layer("shared", a, 4).unwrap();
    let right = net.layer("shared", b, 4).unwrap();
    let both = net.concat(&[left, right]).unwrap();
    let out = net.layer("out", both, 3).unwrap();
    net.output(out).unwrap();
    let groups = net.groups().unwrap();
    assert_eq!(groups[0].members(), ["a", "b"]);
    assert_eq!(groups[1].members(), ["shared", "shared"]);
    assert!(net.layer("shared", out, 4).is_err());
}

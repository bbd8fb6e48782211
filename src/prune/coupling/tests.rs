use super::*;
use crate::Error;
use crate::prune::ChannelScore;
use crate::prune::tensors::Tensors;
use ndarray::{Array4, ArrayD, IxDyn};

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
    // The number of entries is the same, the blocks differ.
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
    assert_eq!(groups[0].members, ["a"]);
    assert_eq!(groups[1].members, ["b", "c", "d"]);
    // Channels that are tied to an output are never pruned.
    net.output(nodes[2]).unwrap();
    assert_eq!(net.groups().unwrap().len(), 1);
}

#[test]
fn an_undeclared_output_is_an_error() {
    let mut net = Coupling::new();
    let image = net.input(1).unwrap();
    net.layer("out", image, 5).unwrap();
    assert!(problem(net.groups()).contains("out"));
}

#[test]
fn grouped_convolutions_read_blocks() {
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
fn empty_and_overflowing_sizes_are_refused() {
    let mut net = Coupling::new();
    assert!(problem(net.input(0)).contains("the input has 0 channels"));
    let image = net.input(2).unwrap();
    assert!(problem(net.layer("a", image, 0)).contains("a has 0 channels"));
    let many = net.layer_of_blocks("a", image, usize::MAX, 2);
    assert!(problem(many).contains("no more than can be counted"));
    assert!(problem(net.flatten(image, 0)).contains("over 0 positions"));
    assert!(matches!(
        net.flatten(image, usize::MAX),
        Err(Error::Overflow { .. })
    ));
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
    assert!(problem(Coupling::new().relu(foreign)).contains("another network"));
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
    assert_eq!(groups[0].members, ["a", "b"]);
    assert_eq!(groups[1].members, ["shared", "shared"]);
    assert!(problem(net.layer("shared", out, 4)).contains("cannot be the same as"));
}

#[test]
fn a_name_belongs_to_one_kind_of_layer() {
    let mut net = Coupling::new();
    let x = net.input(4).unwrap();
    let a = net.layer("a", x, 4).unwrap();
    let groups = net.graph.groups.len();
    assert!(problem(net.transposed("a", a, 4)).contains("another kind of layer"));
    assert!(problem(net.rms_norm("a", a)).contains("another kind of layer"));
    assert!(problem(net.layer_norm("a", a)).contains("another kind of layer"));
    assert!(problem(net.batch_norm("a", a)).contains("another kind of layer"));
    assert_eq!(net.graph.groups.len(), groups);
    let b = net.batch_norm("n", a).unwrap();
    assert!(problem(net.rms_norm("n", b)).contains("another kind of layer"));
    assert!(problem(net.layer("n", b, 4)).contains("another kind of layer"));
    assert!(problem(net.depthwise("n", b)).contains("another kind of layer"));
    assert!(net.batch_norm("n", b).is_ok());
}

#[test]
fn group_norms_have_groups_of_one_size() {
    let mut net = Coupling::new();
    let x = net.input(6).unwrap();
    for groups in [0, 4, 7] {
        let text = format!("{groups} groups, which do not divide 6 channels");
        assert!(problem(net.group_norm("n", x, groups)).contains(&text));
    }
    assert!(net.group_norm("n", x, 3).is_ok());
}

#[test]
fn scores_of_transposed_layers_follow_their_outputs() {
    let mut net = Coupling::new();
    let x = net.input(4).unwrap();
    let x = net.transposed("up", x, 6).unwrap();
    let x = net.layer_of_blocks("blocks", x, 2, 3).unwrap();
    let x = net.transposed_grouped("grouped", x, 2, 4).unwrap();
    let out = net.layer("out", x, 1).unwrap();
    net.output(out).unwrap();
    let mut plain = Coupling::new();
    let x = plain.input(4).unwrap();
    let x = plain.layer("up", x, 6).unwrap();
    let x = plain.layer_of_blocks("blocks", x, 2, 3).unwrap();
    let x = plain.grouped("grouped", x, 2, 4).unwrap();
    let out = plain.layer("out", x, 1).unwrap();
    plain.output(out).unwrap();

    let value = |a: usize, b: usize| (a * 7 + b) as f64;
    let weight = |shape: &[usize], f: &dyn Fn(usize, usize) -> f64| {
        ArrayD::from_shape_fn(IxDyn(shape), |i| f(i[0], i[1]) + (i[2] + 2 * i[3]) as f64)
    };
    // (outputs 4, inputs 3 of each group), and the same with inputs of both groups first.
    let of_group = |o: usize, i: usize| value(o, i % 3);
    let transposed: Tensors<f64> = [
        ("up.weight", weight(&[4, 6, 2, 3], &|i, o| value(o, i))),
        ("blocks.weight", Array4::ones((6, 6, 1, 1)).into_dyn()),
        (
            "grouped.weight",
            weight(&[6, 2, 2, 3], &|i, o| of_group(i / 3 * 2 + o, i)),
        ),
        ("out.weight", Array4::ones((1, 4, 1, 1)).into_dyn()),
    ]
    .map(|(name, tensor)| (name.to_owned(), tensor))
    .into();
    let mut straight = transposed.clone();
    let up = weight(&[6, 4, 2, 3], &value);
    straight.insert("up.weight".to_owned(), up);
    let grouped = weight(&[4, 3, 2, 3], &of_group);
    straight.insert("grouped.weight".to_owned(), grouped);
    for score in [ChannelScore::FilterL1, ChannelScore::FilterL2] {
        let scores = net.scores(&transposed, score).unwrap();
        assert_eq!(scores[0].len(), 6);
        assert_eq!(scores, plain.scores(&straight, score).unwrap());
    }
    let mut flat = transposed;
    flat.insert("grouped.weight".to_owned(), ArrayD::zeros(IxDyn(&[6])));
    assert!(matches!(
        net.scores(&flat, ChannelScore::FilterL1),
        Err(Error::Dimensions { .. })
    ));
}

"""Where the gateway of a cluster stands, and where it listens."""

from cachestore.cluster.gateways import HEAD, placed


def node(name: str, machine: str, *resources: str) -> dict[str, object]:
    return {"NodeID": name, "NodeManagerAddress": machine, "Resources": dict.fromkeys(resources, 1.0)}


def test_on_several_machines_the_gateway_stands_beside_the_head_only_if_it_has_to() -> None:
    several = [node("a", "10.0.0.1", "CPU"), node("b", "10.0.0.2", HEAD), node("c", "10.0.0.2", "CPU")]
    location, options = placed(several)
    assert location == "EveryNode"
    assert options == {
        "label_selector": {"ray.io/node-id": "!b"},
        "fallback_strategy": [{"label_selector": {"ray.io/node-id": "b"}}],
    }


def test_on_one_machine_it_listens_once() -> None:
    assert placed([node("a", "10.0.0.1", HEAD), node("b", "10.0.0.1", "CPU")]) == ("HeadOnly", {})
    assert placed([node("a", "10.0.0.1", HEAD)]) == ("HeadOnly", {})

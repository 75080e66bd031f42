"""What can't be understood is refused with file, line, field, what was seen and what is expected."""

import pytest

from svcnet.codec.reader import read


def complaints(text: str | bytes, *, strict: bool = False) -> list[str]:
    found = read(text.encode() if isinstance(text, str) else text, "f", strict=strict)
    assert found.records == ()
    return [str(error) for error in found.errors]


def service(spec: str, *, name: str = "a") -> str:
    return f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n" + "".join(
        f"  {line}\n" for line in spec.splitlines()
    )


PORT = "ports: [{port: 80}]\n"
SERVICE_ROWS = [
    ("ports: [{port: 0}]", "5: spec.ports[0].port: got 0, expected a port, 1..65535"),
    ("ports:\n- port: 70000", "6: spec.ports[0].port: got 70000, expected a port, 1..65535"),
    ("ports:\n- name: x", "6: spec.ports[0].port: missing, expected a port, 1..65535"),
    ('ports:\n- port: "80"', '6: spec.ports[0].port: got string "80", expected integer'),
    ("ports:\n- port: 80.5", "6: spec.ports[0].port: got number 80.5, expected integer"),
    ("ports: 80", "5: spec.ports: got integer 80, expected array"),
    ("ports: []", "5: spec.ports: missing, expected at least one port"),
    ("selector: {a: b}", "4: spec.ports: missing, expected at least one port"),
    ("ports: [{port: 80, protocol: ICMP}]", '5: spec.ports[0].protocol: got "ICMP", expected TCP or UDP or SCTP'),
    (
        'ports: [{port: 80, targetPort: "8080"}]',
        '5: spec.ports[0].targetPort: got string "8080", expected a number without quotes, or a port\'s name',
    ),
    (
        "ports: [{port: 80, targetPort: no}]",
        "5: spec.ports[0].targetPort: got bool false, expected integer or string",
    ),
    (
        "ports:\n- port: 80\n  name: a\n- port: 81",
        "8: spec.ports[1].name: missing, expected a name, since the service has several ports",
    ),
    (
        "ports:\n- {port: 80, name: a}\n- {port: 81, name: a}",
        '7: spec.ports[1].name: got "a" twice, expected another name',
    ),
    (
        "ports:\n- {port: 80, name: a}\n- {port: 80, name: b}",
        "7: spec.ports[1].port: got 80 TCP twice, expected each port once a protocol",
    ),
    (
        "ports: [{port: 80, name: HTTP}]",
        '5: spec.ports[0].name: got "HTTP", expected a DNS label: a-z, 0-9 and -, at most 63',
    ),
    (
        PORT + "type: Cluster",
        '6: spec.type: got "Cluster", expected ClusterIP or NodePort or LoadBalancer or ExternalName',
    ),
    (PORT + "sessionAffinity: yes", "6: spec.sessionAffinity: got bool true, expected string"),
    (
        PORT + "sessionAffinityConfig:\n  clientIP:\n    timeoutSeconds: -1",
        "8: spec.sessionAffinityConfig.clientIP.timeoutSeconds: got -1, expected 1..86400 seconds, or 0 for ever",
    ),
    (
        PORT + "clusterIP: 10.0.0.010",
        '6: spec.clusterIP: got "10.0.0.010", expected an IP address without leading zeros',
    ),
    (PORT + "clusterIP: 10.0.0.0/24", '6: spec.clusterIP: got "10.0.0.0/24", expected an IP address without /'),
    (
        PORT + "clusterIP: ::ffff:10.0.0.1",
        '6: spec.clusterIP: got "::ffff:10.0.0.1", expected the IPv4 address itself: 10.0.0.1',
    ),
    (PORT + "clusterIP: fe80::1%eth0", '6: spec.clusterIP: got "fe80::1%eth0", expected an IP address without a zone'),
    (
        PORT + "clusterIP: 10.0.0.1\nclusterIPs: [10.0.0.2]",
        '6: spec.clusterIP: got "10.0.0.1", expected the first of clusterIPs, "10.0.0.2"',
    ),
    (
        PORT + "clusterIPs: [10.0.0.1, 10.0.0.2]",
        "6: spec.clusterIPs: two addresses of one family, expected at most one a family",
    ),
    (
        PORT + "clusterIPs: [10.0.0.1]\nipFamilies: [IPv6]",
        "7: spec.ipFamilies: got IPv6, expected the families of clusterIPs 10.0.0.1 in their order",
    ),
    (PORT + "ipFamilies: [IPv5]", '6: spec.ipFamilies[0]: got "IPv5", expected IPv4 or IPv6'),
    (
        PORT + "externalIPs:\n- 192.0.2.1\n- host",
        '8: spec.externalIPs[1]: got "host", expected an IP address',
    ),
    (
        PORT + "loadBalancerSourceRanges: [10.0.0.0/33]",
        '6: spec.loadBalancerSourceRanges[0]: got "10.0.0.0/33", expected a CIDR range, as in 10.0.0.0/8',
    ),
    (
        "type: ExternalName",
        "4: spec.externalName: missing, expected a host name, since type is ExternalName",
    ),
    (
        "type: ExternalName\nexternalName: 'a b'",
        (
            '6: spec.externalName: got "a b", expected a host name, since type is ExternalName: '
            "labels of letters, 0-9 and - joined by dots, at most 253"
        ),
    ),
    (PORT + "selector:\n  a: b\n  on: 1", "8: spec.selector.on: got integer 1, expected string"),
    (PORT + "externalTrafficPolicy: local", '6: spec.externalTrafficPolicy: got "local", expected Cluster or Local'),
]


@pytest.mark.parametrize(("spec", "complaint"), SERVICE_ROWS, ids=[row[1] for row in SERVICE_ROWS])
def test_service_fields(spec: str, complaint: str) -> None:
    assert complaints(service(spec)) == [f"f:{complaint}"]


LABEL_RULE = "expected a service name: a DNS label of a-z, 0-9 and -, at most 63"


@pytest.mark.parametrize("name", ["Tomcat", "a.b", "-a", "a-", "a_b", "é", "x" * 64])
def test_service_names_are_dns_labels(name: str) -> None:
    assert complaints(service(PORT, name=name)) == [f'f:3: metadata.name: got "{name}", {LABEL_RULE}']


def test_2014_service_names_are_dns_labels_too() -> None:
    text = '{"kind": "Service", "apiVersion": "v1beta1", "port": 80,\n"id": "tomcatController"}'
    assert complaints(text) == [f'f:2: id: got "tomcatController", {LABEL_RULE}']


NAME_RULE = "expected a name: labels of letters, 0-9 and - joined by dots, at most 253"
HEADER_ROWS = [
    ("kind: Service", "1: apiVersion: missing, expected v1beta1 or v1 or discovery.k8s.io/v1"),
    ("apiVersion: v1", "1: kind: missing, expected a kind, as in Service"),
    ("apiVersion: v1\nkind: 1", "2: kind: got integer 1, expected string"),
    (
        "apiVersion: v1\nkind: Secret",
        (
            '2: kind: unknown kind "Secret" of v1, expected Service or Pod or ReplicationController or Endpoints or'
            " Node or Namespace or List"
        ),
    ),
    (
        "apiVersion: apps/v1\nkind: Deployment",
        '1: apiVersion: got "apps/v1", expected v1beta1 or v1 or discovery.k8s.io/v1',
    ),
    (
        "apiVersion: v1\nkind: Minion",
        '2: kind: unknown kind "Minion" of v1, expected apiVersion v1beta1 for it',
    ),
    ("apiVersion: v1\nkind: Namespace", "1: metadata.name: missing, expected a namespace name"),
    ("apiVersion: v1\nkind: Pod\nmetadata: []", "3: metadata: got array, expected object"),
    ("apiVersion: v1\nkind: Pod\nmetadata: {name: a b}", f'3: metadata.name: got "a b", {NAME_RULE}'),
    (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: A}",
        '3: metadata.namespace: got "A", expected a namespace: a DNS label of a-z, 0-9 and -, at most 63',
    ),
    ("- a\n- b", "1: got array, expected object"),
    ("hello", '1: got string "hello", expected object'),
    ("apiVersion: v1\nkind: List\nitems: {}", "3: items: got object, expected array"),
    (
        "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: List",
        "5: kind: a list inside a list, expected a record",
    ),
    ("apiVersion: v1\nkind: List\nitems:\n- 7", "4: got integer 7, expected object"),
]


@pytest.mark.parametrize(("text", "complaint"), HEADER_ROWS, ids=[row[1] for row in HEADER_ROWS])
def test_kinds_and_names(text: str, complaint: str) -> None:
    assert complaints(text) == [f"f:{complaint}"]


OTHER_ROWS = [
    ('"kind": "Service", "apiVersion": "v1beta1", "id": "a"', "port: missing, expected a port, 1..65535"),
    ('"kind": "Service", "apiVersion": "v1beta1"', "id: missing, expected a service name"),
    ('"kind": "Service", "apiVersion": "v1beta1", "id": "a", "port": "80"', 'port: got string "80", expected integer'),
    (
        '"kind": "Endpoints", "apiVersion": "v1beta1", "id": "a", "endpoints": ["10.0.0.1"]',
        'endpoints[0]: got "10.0.0.1", expected ADDRESS:PORT',
    ),
    (
        '"kind": "Endpoints", "apiVersion": "v1beta1", "id": "a", "endpoints": ["10.0.0.1:0"]',
        "endpoints[0]: got 0, expected a port, 1..65535",
    ),
    (
        '"kind": "Pod", "apiVersion": "v1beta1", "id": "a", "currentState": {"status": "Dead"}',
        (
            'currentState.status: got "Dead", expected '
            "Waiting or Running or Succeeded or Failed or Pending or Unknown or Terminated"
        ),
    ),
    (
        '"kind": "ReplicationController", "apiVersion": "v1beta1", "id": "a", "desiredState": {"replicas": -1}',
        "desiredState.replicas: got -1, expected 0 or more",
    ),
    (
        (
            '"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "metadata": {"name": "a"}, "addressType":'
            ' "IPv4", "endpoints": [{"addresses": ["fd00::1"]}]'
        ),
        'endpoints[0].addresses[0]: got "fd00::1", expected IPv4, as addressType says',
    ),
    (
        '"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "metadata": {"name": "a"}',
        "addressType: missing, expected IPv4 or IPv6 or FQDN",
    ),
    (
        (
            '"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a"}, "spec": {"containers":'
            ' [{"name": "c", "ports": [{"containerPort": 1, "name": "123"}]}]}'
        ),
        (
            'spec.containers[0].ports[0].name: got "123", expected a port name: a-z, 0-9 and single -, '
            "a letter in it, at most 15"
        ),
    ),
    (
        (
            '"kind": "Node", "apiVersion": "v1", "metadata": {"name": "a"}, "status": {"addresses":'
            ' [{"type": "InternalIP", "address": "m1"}]}'
        ),
        'status.addresses[0].address: got "m1", expected an IP address',
    ),
    (
        '"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "a", "labels": {"x.y/z": true}}',
        "metadata.labels[x.y/z]: got bool true, expected string",
    ),
]


@pytest.mark.parametrize(("members", "complaint"), OTHER_ROWS, ids=[row[1] for row in OTHER_ROWS])
def test_other_kinds(members: str, complaint: str) -> None:
    assert complaints("{" + members + "}") == [f"f:1: {complaint}"]


def test_a_bad_record_does_not_stop_the_next() -> None:
    text = """
{"kind": "List", "apiVersion": "v1", "items": [
  {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "a"}},
  {"kind": "Namespace", "apiVersion": "v1",
   "metadata": {
     "name": "B"}},
  {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "c"}}]}
{"kind": "Nothing", "apiVersion": "v1"}
{"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "d"}}
"""
    found = read(text.encode(), "f")
    assert [entry.record.meta.name for entry in found.records] == ["a", "c", "d"]
    assert [str(error).partition(": ")[0] for error in found.errors] == ["f:6", "f:8"]


SYNTAX_ROWS = [
    ("", "1: no record, expected at least one"),
    (" \n\n", "1: no record, expected at least one"),
    ("---\n# nothing\n", "1: no record, expected at least one"),
    ('{"a": 1', "1: column 8: not JSON: expecting ',' delimiter"),
    ('{"a": "b', "1: column 7: not JSON: unterminated string starting"),
    ('{\n  "a": tru\n}', "2: column 8: not JSON: expecting value"),
    ('{\n  "é": "b" "c"}', "2: column 12: not JSON: expecting ',' delimiter"),
    ('{"a": 1,, "b": 2}', "1: column 9: not JSON: expecting property name enclosed in double quotes"),
    ("{a: 1}", "1: column 2: not JSON: expecting property name enclosed in double quotes"),
    ("a: [1, 2", "2: column 1: did not find expected ',' or ']'"),
    ("a: b: c", "1: column 5: mapping values are not allowed in this context"),
    ("a: 1\nb: 2\na: 3", "3: column 1: key 'a' twice, expected each key once"),
    ("a: *b", "1: column 4: alias *b of an unknown or unfinished anchor"),
    ("a: &a [*a]", "1: column 8: alias *a of an unknown or unfinished anchor"),
    (
        "a: !!python/object:os.system x",
        "1: column 4: tag 'tag:yaml.org,2002:python/object:os.system', expected a plain value",
    ),
    ("? [a]\n: b", "1: column 3: a key that is no plain word, expected a string"),
]


@pytest.mark.parametrize(("text", "complaint"), SYNTAX_ROWS, ids=[row[1] for row in SYNTAX_ROWS])
def test_text_that_is_no_record(text: str, complaint: str) -> None:
    assert complaints(text) == [f"f:{complaint}"]


def test_text_that_is_not_utf_8_names_the_offset() -> None:
    expected = "f:2: column 6: byte 0xff at offset 7 is not UTF-8, expected UTF-8 text"
    assert complaints(b'{\n"a": \xff}') == [expected]


def test_a_syntax_error_refuses_the_whole_file() -> None:
    good = '{"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "a"}}'
    assert complaints(good + "\n{") == ["f:2: column 2: not JSON: expecting property name enclosed in double quotes"]


def test_every_trailing_comma_is_named_and_text_in_strings_is_not_touched() -> None:
    text = '{"kind": "Namespace", "apiVersion": "v1",\n"metadata": {"name": "a", "labels": {"x": ",}",},\n},}'
    found = read(text.encode(), "f")
    assert found.errors == ()
    assert found.records[0].record.meta.labels == (("x", ",}"),)
    assert [warning.partition(": ")[0] for warning in found.warnings] == ["f:2", "f:2", "f:3"]


TWICE = '{"kind": "Namespace", "apiVersion": "v1",\n"metadata": {"name": "a",\n"name": "b"}}'


def test_a_json_key_that_stands_twice_is_refused_where_people_write() -> None:
    assert complaints(TWICE, strict=True) == ["f:3: metadata.name: the key stands there twice, expected once"]


def test_a_json_key_that_stands_twice_counts_last_elsewhere() -> None:
    assert [entry.record.meta.name for entry in read(TWICE.encode(), "f").records] == ["b"]


def test_strict_reading_takes_equal_keys_of_different_objects() -> None:
    text = '{"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "a", "x": [{"a": {}}, {"a": [1, 1]}]}}'
    assert read(text.encode(), "f", strict=True).errors == ()

"""The messages of etcd's gRPC interface, built at run time, and the module that etcd3 takes them from.

Owns: names, types and numbers of fields (etcd 3.4, etcdserverpb/rpc.proto and mvccpb/kv.proto), as far as svcnet and
etcd3's client need them. Must not know: connections, records.

etcd3 0.12.0 comes with code that was generated for a protobuf of 2019 and that today's refuses. Messages built from
descriptors need no generator and no pin: what protobuf is installed does not matter (docs/adr/0005-etcd.md).
"""

import importlib
import sys
from types import ModuleType
from typing import Any

NAME = "etcd3.etcdrpc"

ENUMS = {
    "mvccpb.Event.EventType": "PUT DELETE",
    "etcdserverpb.RangeRequest.SortOrder": "NONE ASCEND DESCEND",
    "etcdserverpb.RangeRequest.SortTarget": "KEY VERSION CREATE MOD VALUE",
    "etcdserverpb.Compare.CompareResult": "EQUAL GREATER LESS NOT_EQUAL",
    "etcdserverpb.Compare.CompareTarget": "VERSION CREATE MOD VALUE LEASE",
    "etcdserverpb.WatchCreateRequest.FilterType": "NOPUT NODELETE",
}
"""Nested enum → its values, from 0."""

MESSAGES = {
    "mvccpb.KeyValue": "key:bytes=1 create_revision:int64=2 mod_revision:int64=3 version:int64=4 value:bytes=5"
    " lease:int64=6",
    "mvccpb.Event": "type:.mvccpb.Event.EventType=1 kv:.mvccpb.KeyValue=2 prev_kv:.mvccpb.KeyValue=3",
    "etcdserverpb.ResponseHeader": "cluster_id:uint64=1 member_id:uint64=2 revision:int64=3 raft_term:uint64=4",
    "etcdserverpb.RangeRequest": "key:bytes=1 range_end:bytes=2 limit:int64=3 revision:int64=4"
    " sort_order:.etcdserverpb.RangeRequest.SortOrder=5 sort_target:.etcdserverpb.RangeRequest.SortTarget=6"
    " serializable:bool=7 keys_only:bool=8 count_only:bool=9 min_mod_revision:int64=10 max_mod_revision:int64=11"
    " min_create_revision:int64=12 max_create_revision:int64=13",
    "etcdserverpb.RangeResponse": "header:.etcdserverpb.ResponseHeader=1 *kvs:.mvccpb.KeyValue=2 more:bool=3"
    " count:int64=4",
    "etcdserverpb.PutRequest": "key:bytes=1 value:bytes=2 lease:int64=3 prev_kv:bool=4 ignore_value:bool=5"
    " ignore_lease:bool=6",
    "etcdserverpb.PutResponse": "header:.etcdserverpb.ResponseHeader=1 prev_kv:.mvccpb.KeyValue=2",
    "etcdserverpb.DeleteRangeRequest": "key:bytes=1 range_end:bytes=2 prev_kv:bool=3",
    "etcdserverpb.DeleteRangeResponse": "header:.etcdserverpb.ResponseHeader=1 deleted:int64=2"
    " *prev_kvs:.mvccpb.KeyValue=3",
    "etcdserverpb.RequestOp": "request_range:.etcdserverpb.RangeRequest=1@request"
    " request_put:.etcdserverpb.PutRequest=2@request"
    " request_delete_range:.etcdserverpb.DeleteRangeRequest=3@request"
    " request_txn:.etcdserverpb.TxnRequest=4@request",
    "etcdserverpb.ResponseOp": "response_range:.etcdserverpb.RangeResponse=1@response"
    " response_put:.etcdserverpb.PutResponse=2@response"
    " response_delete_range:.etcdserverpb.DeleteRangeResponse=3@response"
    " response_txn:.etcdserverpb.TxnResponse=4@response",
    "etcdserverpb.Compare": "result:.etcdserverpb.Compare.CompareResult=1"
    " target:.etcdserverpb.Compare.CompareTarget=2 key:bytes=3 version:int64=4@target_union"
    " create_revision:int64=5@target_union mod_revision:int64=6@target_union value:bytes=7@target_union"
    " lease:int64=8@target_union range_end:bytes=64",
    "etcdserverpb.TxnRequest": "*compare:.etcdserverpb.Compare=1 *success:.etcdserverpb.RequestOp=2"
    " *failure:.etcdserverpb.RequestOp=3",
    "etcdserverpb.TxnResponse": "header:.etcdserverpb.ResponseHeader=1 succeeded:bool=2"
    " *responses:.etcdserverpb.ResponseOp=3",
    "etcdserverpb.CompactionRequest": "revision:int64=1 physical:bool=2",
    "etcdserverpb.CompactionResponse": "header:.etcdserverpb.ResponseHeader=1",
    "etcdserverpb.WatchRequest": "create_request:.etcdserverpb.WatchCreateRequest=1@request_union"
    " cancel_request:.etcdserverpb.WatchCancelRequest=2@request_union"
    " progress_request:.etcdserverpb.WatchProgressRequest=3@request_union",
    "etcdserverpb.WatchCreateRequest": "key:bytes=1 range_end:bytes=2 start_revision:int64=3 progress_notify:bool=4"
    " *filters:.etcdserverpb.WatchCreateRequest.FilterType=5 prev_kv:bool=6 watch_id:int64=7 fragment:bool=8",
    "etcdserverpb.WatchCancelRequest": "watch_id:int64=1",
    "etcdserverpb.WatchProgressRequest": "",
    "etcdserverpb.WatchResponse": "header:.etcdserverpb.ResponseHeader=1 watch_id:int64=2 created:bool=3"
    " canceled:bool=4 compact_revision:int64=5 cancel_reason:string=6 fragment:bool=7 *events:.mvccpb.Event=11",
    "etcdserverpb.LeaseGrantRequest": "TTL:int64=1 ID:int64=2",
    "etcdserverpb.LeaseGrantResponse": "header:.etcdserverpb.ResponseHeader=1 ID:int64=2 TTL:int64=3 error:string=4",
    "etcdserverpb.LeaseRevokeRequest": "ID:int64=1",
    "etcdserverpb.LeaseRevokeResponse": "header:.etcdserverpb.ResponseHeader=1",
    "etcdserverpb.LeaseKeepAliveRequest": "ID:int64=1",
    "etcdserverpb.LeaseKeepAliveResponse": "header:.etcdserverpb.ResponseHeader=1 ID:int64=2 TTL:int64=3",
    "etcdserverpb.AuthenticateRequest": "name:string=1 password:string=2",
    "etcdserverpb.AuthenticateResponse": "header:.etcdserverpb.ResponseHeader=1 token:string=2",
    "etcdserverpb.StatusRequest": "",
    "etcdserverpb.StatusResponse": "header:.etcdserverpb.ResponseHeader=1 version:string=2 dbSize:int64=3"
    " leader:uint64=4 raftIndex:uint64=5 raftTerm:uint64=6",
    "etcdserverpb.Member": "ID:uint64=1 name:string=2 *peerURLs:string=3 *clientURLs:string=4 isLearner:bool=5",
    "etcdserverpb.MemberListRequest": "",
    "etcdserverpb.MemberListResponse": "header:.etcdserverpb.ResponseHeader=1 *members:.etcdserverpb.Member=2",
}
"""Message → its fields, NAME:TYPE=NUMBER. `*` before a name: repeated; `@GROUP` after the number: one of that group."""

SERVICES = {
    "KV": "Range Put DeleteRange Txn Compact:Compaction",
    "Watch": "*Watch",
    "Lease": "LeaseGrant LeaseRevoke *LeaseKeepAlive",
    "Auth": "Authenticate",
    "Maintenance": "Status",
    "Cluster": "MemberList",
}
"""Service → its methods. METHOD:STEM where the messages are STEMRequest and STEMResponse; `*`: a stream both ways."""


def install() -> ModuleType:
    """Make `import etcd3.etcdrpc` give the messages and stubs; return that module. Must come before `import etcd3`."""
    found = sys.modules.get(NAME)
    if found is None:
        found = sys.modules[NAME] = _module()
    return found


def _module() -> ModuleType:
    pool: Any = importlib.import_module("google.protobuf.descriptor_pool").DescriptorPool()
    factory: Any = importlib.import_module("google.protobuf.message_factory")
    # A pool of its own: another client of etcd in this process may have put the same names into the default one.
    for package in ("mvccpb", "etcdserverpb"):
        pool.AddSerializedFile(_file(package).SerializeToString())
    module = ModuleType(NAME, __doc__)
    for name in MESSAGES:
        found = factory.GetMessageClass(pool.FindMessageTypeByName(name))
        setattr(module, name.rpartition(".")[2], found)
    for service, methods in SERVICES.items():
        setattr(module, f"{service}Stub", _stub(module, service, methods))
    return module


def _file(package: str) -> Any:
    """Return the FileDescriptorProto of a package."""
    descriptor: Any = importlib.import_module("google.protobuf.descriptor_pb2")
    imports = () if package == "mvccpb" else ("mvccpb.proto",)
    file = descriptor.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3", dependency=imports)
    messages = {}
    for name, fields in MESSAGES.items():
        if name.startswith(f"{package}."):
            messages[name] = message = file.message_type.add(name=name.rpartition(".")[2])
            for field in fields.split():
                _add_field(message, field)
    for name, values in ENUMS.items():
        outer, _, inner = name.rpartition(".")
        if outer in messages:
            enum = messages[outer].enum_type.add(name=inner)
            for number, value in enumerate(values.split()):
                enum.value.add(name=value, number=number)
    return file


def _add_field(message: Any, text: str) -> None:
    """Add a field, written as in MESSAGES."""
    name, _, rest = text.partition(":")
    kind, _, place = rest.partition("=")
    number, _, group = place.partition("@")
    field = message.field.add(name=name.removeprefix("*"), number=int(number))
    field.label = field.LABEL_REPEATED if name.startswith("*") else field.LABEL_OPTIONAL
    if kind.startswith("."):
        field.type_name = kind
        field.type = field.TYPE_ENUM if kind[1:] in ENUMS else field.TYPE_MESSAGE
    else:
        field.type = getattr(field, f"TYPE_{kind.upper()}")
    if group:
        if not message.oneof_decl:
            message.oneof_decl.add(name=group)
        field.oneof_index = 0  # no message here has two groups


def _stub(module: ModuleType, service: str, methods: str) -> type:
    """Return the client class of a service: one attribute a method, as generated code has it."""

    def connect(self: Any, channel: Any) -> None:
        for text in methods.split():
            name, _, stem = text.removeprefix("*").partition(":")
            call = channel.stream_stream if text.startswith("*") else channel.unary_unary
            made = call(
                f"/etcdserverpb.{service}/{name}",
                request_serializer=getattr(module, f"{stem or name}Request").SerializeToString,
                response_deserializer=getattr(module, f"{stem or name}Response").FromString,
            )
            setattr(self, name, made)

    return type(f"{service}Stub", (), {"__init__": connect})

"""A tour of hindcast from Python: what README tells, as a program that checks itself.

    pip install grpcio grpcio-tools
    python tests/python/tour.py --server 127.0.0.1:4780

Needs nothing but a running server that can read this machine's temporary folder. Names carry a random ending, so it can
be run again and again. Exits with 0 when everything was as told.
"""

import argparse
import importlib
import sys
import tempfile
import uuid
from datetime import UTC, datetime
from pathlib import Path

import grpc
from grpc_tools import protoc

PROTO_ROOT = Path(__file__).parents[2] / "proto"
# As much of the standard protocols as the tour asks for.
HEALTH_PROTO = """
syntax = "proto3";
package grpc.health.v1;
message HealthCheckRequest { string service = 1; }
message HealthCheckResponse { enum Status { UNKNOWN = 0; SERVING = 1; NOT_SERVING = 2; } Status status = 1; }
service Health { rpc Check(HealthCheckRequest) returns (HealthCheckResponse); }
"""
REFLECTION_PROTO = """
syntax = "proto3";
package grpc.reflection.v1;
message ServerReflectionRequest { oneof message_request { string list_services = 7; } }
message ServiceResponse { string name = 1; }
message ListServiceResponse { repeated ServiceResponse service = 1; }
message ServerReflectionResponse { oneof message_response { ListServiceResponse list_services_response = 6; } }
service ServerReflection {
  rpc ServerReflectionInfo(stream ServerReflectionRequest) returns (stream ServerReflectionResponse);
}
"""
CALL_TIMEOUT_S = 30
BACKFILL_TIMEOUT_S = 120
NAMES = ("common", "entity_store", "catalog", "backfill", "admin")


def compile_protos(folder):
    """Compiles the protos into `folder` and imports what comes out: (messages, stubs) by file."""
    (folder / "health.proto").write_text(HEALTH_PROTO)
    (folder / "reflection.proto").write_text(REFLECTION_PROTO)
    well_known = Path(protoc.__file__).parent / "_proto"
    files = [f"hindcast/v1/{name}.proto" for name in NAMES] + ["health.proto", "reflection.proto"]
    roots = [f"-I{PROTO_ROOT}", f"-I{folder}", f"-I{well_known}"]
    if protoc.main(["protoc", *roots, f"--python_out={folder}", f"--grpc_python_out={folder}", *files]) != 0:
        sys.exit("protoc failed")
    sys.path.insert(0, str(folder))
    modules = {}
    for name in files:
        module = name.removesuffix(".proto").replace("/", ".")
        modules[module.split(".")[-1]] = (
            importlib.import_module(f"{module}_pb2"),
            importlib.import_module(f"{module}_pb2_grpc"),
        )
    return modules


def instant(text):
    return datetime.fromisoformat(text).astimezone(UTC)


def shown(timestamp):
    return timestamp.ToDatetime(UTC).isoformat()


def plain(value):
    """A Value as Python has it; None for null."""
    kind = value.WhichOneof("kind")
    if kind is None:
        return None
    content = getattr(value, kind)
    return content.ToDatetime(UTC) if kind == "timestamp_value" else content


class Tour:
    def __init__(self, channel, modules, folder):
        self.common = modules["common"][0]
        self.store_pb, store = modules["entity_store"]
        self.catalog_pb, catalog = modules["catalog"]
        self.backfill_pb, backfill = modules["backfill"]
        self.store = store.EntityStoreServiceStub(channel)
        self.catalog = catalog.CatalogServiceStub(channel)
        self.backfills = backfill.BackfillServiceStub(channel)
        self.admin_pb, admin = modules["admin"]
        self.admin = admin.AdminServiceStub(channel)
        self.health_pb, health = modules["health"]
        self.health = health.HealthStub(channel)
        self.reflection_pb, reflection = modules["reflection"]
        self.reflection = reflection.ServerReflectionStub(channel)
        self.folder = folder
        ending = uuid.uuid4().hex[:8]
        self.customer, self.orders = f"customer_{ending}", f"orders_{ending}"
        self.revenue = f"revenue_{ending}"

    def check_server(self):
        print("The server says what it is")
        status = self.health.Check(self.health_pb.HealthCheckRequest(), timeout=CALL_TIMEOUT_S).status
        assert status == self.health_pb.HealthCheckResponse.SERVING, status
        request = self.reflection_pb.ServerReflectionRequest(list_services="")
        answer = next(iter(self.reflection.ServerReflectionInfo(iter([request]), timeout=CALL_TIMEOUT_S)))
        services = {service.name for service in answer.list_services_response.service}
        for service in ("EntityStoreService", "CatalogService", "BackfillService", "AdminService"):
            assert f"hindcast.v1.{service}" in services, services
        print(f"  healthy; services: {', '.join(sorted(services))}")

    def create_type(self):
        print(f"An entity type, {self.customer}")
        pb = self.store_pb
        entity_type = pb.EntityType(
            name=self.customer,
            attributes=[
                pb.Attribute(name="plan", kind=pb.ATTRIBUTE_KIND_STRING),
                pb.Attribute(name="seats", kind=pb.ATTRIBUTE_KIND_INT64),
            ],
        )
        request = pb.CreateEntityTypeRequest(entity_type=entity_type)
        assert self.store.CreateEntityType(request, timeout=CALL_TIMEOUT_S).created
        assert not self.store.CreateEntityType(request, timeout=CALL_TIMEOUT_S).created, "the same again makes nothing"

    def put(self, plan, seats, valid_from, valid_to=None):
        """A mutation: customer c1 had this plan from then on, or until `valid_to`."""
        pb = self.store_pb
        put = pb.Put(valid_from=instant(valid_from))
        put.attributes["plan"].string_value = plan
        put.attributes["seats"].int64_value = seats
        if valid_to is None:
            put.forever.SetInParent()
        else:
            put.valid_to.FromDatetime(instant(valid_to))
        return pb.Mutation(entity_type=self.customer, entity_id="c1", put=put)

    def write(self, *mutations):
        """One commit. Returns its system time: the basis at which its effect is seen."""
        request = self.store_pb.WriteRequest(mutations=mutations, request_id=uuid.uuid4().hex)
        response = self.store.Write(request, timeout=CALL_TIMEOUT_S)
        assert response.versions_written > 0
        again = self.store.Write(request, timeout=CALL_TIMEOUT_S)
        assert again.replayed and again.system_time == response.system_time, "the same request id writes once"
        return response.system_time

    def plan_at(self, valid_time, basis=None):
        request = self.store_pb.GetEntityRequest(
            entity_type=self.customer, entity_id="c1", valid_time=instant(valid_time), basis=basis
        )
        response = self.store.GetEntity(request, timeout=CALL_TIMEOUT_S)
        if response.outcome != self.store_pb.ENTITY_OUTCOME_VALUE:
            return None
        return plain(response.version.attributes["plan"])

    def list_entities(self):
        request = self.store_pb.ScanEntitiesRequest(entity_type=self.customer, valid_time=instant("2024-03-03T00:00:00Z"))
        versions = [
            version
            for message in self.store.ScanEntities(request, timeout=CALL_TIMEOUT_S)
            for version in message.versions
        ]
        assert [version.entity_id for version in versions] == ["c1"], versions
        request = self.store_pb.ListHistoryRequest(entity_type=self.customer, entity_id="c1")
        history = self.store.ListHistory(request, timeout=CALL_TIMEOUT_S).versions
        assert len(history) >= 3, history
        for version in history:
            until = shown(version.system_to) if version.HasField("system_to") else "now"
            ends = shown(version.valid_to) if version.HasField("valid_to") else "open"
            plan = plain(version.attributes["plan"])
            print(f"  {plan:5} valid {shown(version.valid_from)} to {ends}, known {shown(version.system_from)} to {until}")

    def load(self):
        print("Streams: a bulk load, a point-in-time join, the changes since")
        pb = self.store_pb
        before = self.store.GetEntity(
            pb.GetEntityRequest(entity_type=self.customer, entity_id="c1"), timeout=CALL_TIMEOUT_S
        ).basis
        name = f"load-{self.customer}"

        def batches():
            yield pb.IngestRequest(start=pb.IngestStart(stream=name))
            for offset in range(1, 6):
                mutations = []
                for number in range(100):
                    put = pb.Put(valid_from=instant("2024-03-01T00:00:00Z"))
                    put.attributes["plan"].string_value = f"plan {offset}"
                    mutations.append(pb.Mutation(entity_type=self.customer, entity_id=f"bulk{number:03}", put=put))
                yield pb.IngestRequest(batch=pb.IngestBatch(offset=offset, mutations=mutations))

        acknowledged = [answer.acknowledged_offset for answer in self.store.Ingest(batches(), timeout=CALL_TIMEOUT_S)]
        assert acknowledged[0] == 0 and acknowledged[-1] == 5, acknowledged
        again = [answer.acknowledged_offset for answer in self.store.Ingest(batches(), timeout=CALL_TIMEOUT_S)]
        assert again[0] == 5, "the load is remembered where it stands"

        def rows():
            yield pb.LookupRequest(settings=pb.LookupSettings(entity_type=self.customer, attributes=["plan"]))
            asked = [pb.LookupRows.Row(entity_id=f"bulk{n:03}", valid_time=instant("2024-03-05T00:00:00Z")) for n in range(101)]
            yield pb.LookupRequest(rows=pb.LookupRows(rows=asked))

        results = [row for answer in self.store.Lookup(rows(), timeout=CALL_TIMEOUT_S) for row in answer.results]
        assert [plain(row.values[0]) for row in results[:100]] == ["plan 5"] * 100
        assert results[100].outcome == pb.ENTITY_OUTCOME_NOT_KNOWN
        request = pb.ListChangesRequest(from_basis=before, entity_types=[self.customer])
        changes = [
            change
            for message in self.store.ListChanges(request, timeout=CALL_TIMEOUT_S)
            for change in message.changes
        ]
        assert len(changes) == 500, len(changes)
        assert plain(changes[-1].after.attributes["plan"]) == "plan 5"
        request = pb.ScanEntitiesRequest(
            entity_type=self.customer, valid_time=instant("2024-03-05T00:00:00Z"), filter="entity_id < 'bulk010' AND seats IS NULL"
        )
        found = [v.entity_id for message in self.store.ScanEntities(request, timeout=CALL_TIMEOUT_S) for v in message.versions]
        assert len(found) == 10, found
        print(f"  {acknowledged[-1]} batches acknowledged, {len(results)} rows joined, {len(changes)} changes told")

    def correct(self):
        print("A patch, an expectation that fails, an erasure")
        pb = self.store_pb
        patch = pb.Patch(valid_from=instant("2024-03-02T00:00:00Z"), forever=pb.Forever())
        patch.attributes["seats"].int64_value = 7
        mutation = pb.Mutation(entity_type=self.customer, entity_id="bulk000", patch=patch)
        mutation.expect.add(value=pb.ExpectValue(attributes={"plan": self.common.Value(string_value="plan 5")}))
        self.store.Write(pb.WriteRequest(mutations=[mutation]), timeout=CALL_TIMEOUT_S)
        try:
            self.store.Write(pb.WriteRequest(mutations=[mutation]), timeout=CALL_TIMEOUT_S)
            raise AssertionError("it is no longer so")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.ABORTED, error
        erase = pb.Mutation(entity_type=self.customer, entity_id="bulk000", erase=pb.Erase())
        self.store.Write(pb.WriteRequest(mutations=[erase]), timeout=CALL_TIMEOUT_S)
        answer = self.store.GetEntity(
            pb.GetEntityRequest(entity_type=self.customer, entity_id="bulk000"), timeout=CALL_TIMEOUT_S
        )
        assert answer.outcome == pb.ENTITY_OUTCOME_ERASED, answer
        chunks = [answer.chunk for answer in self.admin.Backup(self.admin_pb.BackupRequest(), timeout=CALL_TIMEOUT_S)]
        print(f"  erased; a backup of {sum(map(len, chunks))} bytes")

    def register(self):
        print(f"A source of CSV files, {self.orders}, and a transform, {self.revenue}")
        pb = self.catalog_pb
        (self.folder / "orders.csv").write_text(
            "ordered_at,customer,amount\n"
            "2024-03-01T10:00:00Z,c1,10\n"
            "2024-03-02T06:00:00Z,c1,20\n"
            "2024-03-02T18:00:00Z,c1,30\n"
            "2024-03-03T09:00:00Z,c2,5\n"
        )
        source = pb.Source(
            name=self.orders,
            format=pb.SOURCE_FORMAT_CSV,
            location=str(self.folder / "orders.csv"),
            event_time_column="ordered_at",
            csv_types={"ordered_at": "timestamp", "amount": "int64"},
        )
        created = self.catalog.CreateSource(pb.CreateSourceRequest(source=source), timeout=CALL_TIMEOUT_S)
        assert [column.name for column in created.source.columns] == ["ordered_at", "customer", "amount"], created
        transform = pb.Transform(
            name=self.revenue,
            sql=f"""
                WITH seen AS (
                    SELECT amount, {self.customer}_at(customer, ordered_at) AS state FROM {self.orders}
                )
                SELECT state['plan'] AS plan, count(*) AS orders, sum(amount) AS amount
                FROM seen GROUP BY state['plan'] ORDER BY plan
            """,
            sources=[pb.SourceInput(source=self.orders)],
            entities=[pb.EntityInput(entity_type=self.customer)],
            output_table=self.revenue,
            grain=self.common.GRAIN_DAILY,
            time_zone="UTC",
        )
        request = pb.RegisterTransformRequest(transform=transform)
        registered = self.catalog.RegisterTransform(request, timeout=CALL_TIMEOUT_S)
        assert registered.created and registered.transform.revision == 1, registered

    def backfill(self, **knowledge):
        """Creates a backfill of three days, watches it to its end and returns the table's rows afterwards."""
        pb = self.backfill_pb
        spec = pb.BackfillSpec(transform=self.revenue, **knowledge)
        getattr(spec, "from").FromDatetime(instant("2024-03-01T00:00:00Z"))
        spec.to.FromDatetime(instant("2024-03-04T00:00:00Z"))
        plan = self.backfills.PlanBackfill(pb.PlanBackfillRequest(spec=spec), timeout=CALL_TIMEOUT_S).plan
        assert [partition.label for partition in plan.partitions] == ["2024-03-01", "2024-03-02", "2024-03-03"], plan
        request = pb.CreateBackfillRequest(spec=spec, request_id=uuid.uuid4().hex)
        name = self.backfills.CreateBackfill(request, timeout=CALL_TIMEOUT_S).backfill.name
        self.watch(name)
        done = self.backfills.GetBackfill(pb.GetBackfillRequest(name=name), timeout=CALL_TIMEOUT_S).backfill
        assert done.state == pb.BACKFILL_STATE_SUCCEEDED and done.partition_counts.succeeded == 3, done
        listed = self.backfills.ListPartitions(pb.ListPartitionsRequest(backfill=name), timeout=CALL_TIMEOUT_S)
        assert all(partition.state == pb.PARTITION_STATE_SUCCEEDED for partition in listed.partitions), listed
        return self.read_table()

    def watch(self, name):
        pb = self.backfill_pb
        last = 0
        request = pb.WatchBackfillRequest(name=name)
        for message in self.backfills.WatchBackfill(request, timeout=BACKFILL_TIMEOUT_S):
            if message.WhichOneof("message") != "event":
                continue
            event = message.event
            assert event.sequence == last + 1, f"event {event.sequence} came after {last}"
            last = event.sequence
            change = event.WhichOneof("change")
            if change == "partition_changed":
                changed = event.partition_changed
                state = pb.PartitionState.Name(changed.state).removeprefix("PARTITION_STATE_").lower()
                print(f"  {name} #{last} {changed.label} {state} {changed.message}".rstrip())
            elif change == "backfill_state_changed":
                state = pb.BackfillState.Name(event.backfill_state_changed.state)
                print(f"  {name} #{last} {state.removeprefix('BACKFILL_STATE_').lower()}")
        assert last > 0
        # Who comes back with the last sequence that they have misses nothing and sees nothing twice.
        request = pb.WatchBackfillRequest(name=name, after_sequence=last - 1)
        rest = self.backfills.WatchBackfill(request, timeout=CALL_TIMEOUT_S)
        assert [message.event.sequence for message in rest if message.HasField("event")] == [last]

    def read_table(self):
        """The published rows as {(day, plan): (orders, amount)}."""
        columns, rows = [], {}
        request = self.catalog_pb.ReadTableRequest(name=self.revenue)
        for message in self.catalog.ReadTable(request, timeout=CALL_TIMEOUT_S):
            columns = columns or [column.name for column in message.columns]
            for row in message.rows:
                values = dict(zip(columns, map(plain, row.values), strict=True))
                day = values["partition_start"].date().isoformat()
                rows[day, values["plan"]] = (values["orders"], values["amount"])
        return rows

    def check_errors(self):
        print("Errors say what is wrong")
        try:
            self.store.GetEntity(
                self.store_pb.GetEntityRequest(entity_type="no_such_type", entity_id="c1"), timeout=CALL_TIMEOUT_S
            )
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.NOT_FOUND, error
            print(f"  {error.code().name}: {error.details()}")
        else:
            raise AssertionError("an unknown entity type was read")

    def run(self):
        self.check_server()
        self.create_type()

        print("Two facts about c1: basic from 1 March, pro from noon on 2 March")
        early_basis = self.write(
            self.put("basic", 3, "2024-03-01T00:00:00Z"),
            self.put("pro", 5, "2024-03-02T12:00:00Z"),
        )
        morning = "2024-03-02T06:00:00Z"
        assert self.plan_at(morning) == "basic"
        assert self.plan_at("2024-03-02T12:00:00Z") == "pro", "valid_from is inclusive"
        assert self.plan_at("2024-02-29T23:59:59Z") is None, "nothing is known before"

        self.register()
        print("A backfill of three days: each order meets the plan of its own moment")
        before = self.backfill(knowledge=self.backfill_pb.KNOWLEDGE_AS_KNOWN_NOW)
        assert before == {
            ("2024-03-01", "basic"): (1, 10),
            ("2024-03-02", "basic"): (1, 20),
            ("2024-03-02", "pro"): (1, 30),
            ("2024-03-03", None): (1, 5),
        }, before

        print("A correction: c1 was pro already from midnight on")
        self.write(self.put("pro", 5, "2024-03-02T00:00:00Z", valid_to="2024-03-02T12:00:00Z"))
        print(f"  at the old basis: {self.plan_at(morning, early_basis)}; at the latest: {self.plan_at(morning)}")
        assert self.plan_at(morning) == "pro"
        assert self.plan_at(morning, early_basis) == "basic", "a basis never changes its answer"
        self.list_entities()

        print("The same days AS_KNOWN_NOW see the correction")
        after = self.backfill(knowledge=self.backfill_pb.KNOWLEDGE_AS_KNOWN_NOW)
        assert after == {
            ("2024-03-01", "basic"): (1, 10),
            ("2024-03-02", "pro"): (2, 50),
            ("2024-03-03", None): (1, 5),
        }, after
        print("AT_BASIS the old one, they give the old rows again")
        again = self.backfill(knowledge=self.backfill_pb.KNOWLEDGE_AT_BASIS, basis=early_basis)
        assert again == before, again

        self.load()
        self.correct()
        self.check_errors()
        print("All was as told.")


def main():
    arguments = argparse.ArgumentParser(description="A tour of hindcast from Python.")
    arguments.add_argument("--server", default="127.0.0.1:4780", help="host:port (default: %(default)s)")
    server = arguments.parse_args().server
    with tempfile.TemporaryDirectory(prefix="hindcast-tour-") as folder, grpc.insecure_channel(server) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=CALL_TIMEOUT_S)
        except grpc.FutureTimeoutError:
            sys.exit(f"no answer from {server}: is `hindcast serve` running?")
        data, stubs = Path(folder) / "data", Path(folder) / "stubs"
        data.mkdir()
        stubs.mkdir()
        Tour(channel, compile_protos(stubs), data).run()


if __name__ == "__main__":
    main()

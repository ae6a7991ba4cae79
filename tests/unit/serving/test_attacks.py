"""A served model on loopback, and what hostile or broken clients send it."""

import gzip
import json
import resource
import socket
import threading
import time
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from listening import listening

from histofuse.serving.http import server as module
from histofuse.serving.http.app import serve_endpoint
from histofuse.serving.http.endpoint import Endpoint
from histofuse.serving.http.limits import LIMITS
from histofuse.serving.http.server import configure

MIB = 1024 * 1024
PATIENT = {"age_years": 62, "metastatic": 0, "albumin": 4.1, "insurance": "Medicare"}
SHORT = replace(LIMITS, body_seconds=1.0, small_bytes=4096)


def serving(made, limits=LIMITS):
    """Serve a model in a thread; give the address."""
    encoders = getattr(made, "encoders", None)
    artifacts = {"bundle": str(made.path)} | ({"encoders": str(encoders)} if encoders else {})
    app = serve_endpoint(Endpoint(artifacts), limits)
    return listening(configure("127.0.0.1", 0, 1, app))


@pytest.fixture
def address(tabular):
    with serving(tabular) as made:
        yield made


def read_all(connection):
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def send(address, data, *, timeout=60):
    """Send bytes; give all that comes back until the connection ends."""
    with socket.create_connection(address, timeout=timeout) as connection:
        connection.sendall(data)
        return read_all(connection)


def make_head(length=None, *headers):
    lines = ["POST /invocations HTTP/1.1", "Host: x", "Content-Type: application/json"]
    lines += [f"Content-Length: {length}"] if length is not None else []
    return "\r\n".join([*lines, *headers, "", ""]).encode()


def post(address, body):
    """Post a body; give the status, the answer and its size."""
    answer = send(address, make_head(len(body), "Connection: close") + body)
    head, _, text = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(text), len(answer)


def ask(address, **document):
    return post(address, json.dumps(document).encode())


def check_alive(address):
    status, body, _ = ask(address, dataframe_records=[PATIENT])
    assert status == 200, body
    (row,) = body["predictions"]
    assert row["probability_death"] == pytest.approx(1 - row["probability_no_death"])


def records(*rows):
    return json.dumps({"dataframe_records": rows}).encode()


def with_text(text):
    """Make a request with a text in the place of a number."""
    return records(PATIENT | {"age_years": "XX"}).replace(b'"XX"', text)


MANY = {f"column {number}": 0 for number in range(500_000)}
ATTACKS = {
    "no text": (b"\xff" * 32 * MIB, "not UTF-8 text"),
    "empty": (b"", "not JSON at character 0"),
    "a null byte": (b"\0", "not UTF-8"),
    "a text with null bytes": (records(PATIENT | {"age_years": "\0" * 100}), "age_years"),
    "half a surrogate": (records(PATIENT | {"age_years": "\ud800"}), "age_years"),
    "unknown columns": (records(PATIENT | MANY), "500,004 columns"),
    "as many keys": (json.dumps(MANY).encode(), "500,000 keys"),
    "many params": (json.dumps({"inputs": {}, "params": MANY}).encode(), "input"),
    "unknown columns in turn": (records(*({str(n): 0} for n in range(1001))), "1,001 columns"),
    "names twice": (with_text(b'1, "age_years": 99'), "'age_years' more than once"),
    "500,000 names twice": (
        b'{"dataframe_records": [{' + b",".join([b'"a":0,"b":0'] * 500_000) + b"}]}",
        "more than once",
    ),
    "columns twice": (
        b'{"dataframe_split": {"columns": ["age_years", "age_years"], "data": [[1, 2]]}}',
        "a name twice",
    ),
    "deep lists": (b'{"inputs": ' + b"[" * 1000 + b"]" * 1000 + b"}", ""),
    "deeper lists": (b"[" * 100_000, "nested too deeply"),
    "deep objects": (b'{"inputs": ' + b'{"a":' * 900 + b"1" + b"}" * 901, ""),
    "lists in a cell": (with_text(b"[" * 100 + b"]" * 100), "age_years"),
    "millions of lists": (b"[" + b"[]," * 4_000_000 + b"[]]", "too many lists"),
    "millions of objects": (b'{"inputs": [' + b"{}," * 4_000_000 + b"{}]}", "more than 1,026"),
    "a long number": (with_text(b"9" * 5000), "too many digits"),
    "a large number": (with_text(b"9" * 4000), "age_years"),
    "infinity": (with_text(b"Infinity"), "age_years: is inf"),
    "a float that is infinite": (with_text(b"1e999"), "age_years: is inf"),
    "a long text": (records(PATIENT | {"age_years": "x" * 10 * MIB}), "age_years"),
    "a long name": (records({"n" * 10 * MIB: 1}), "no column 'age_years'"),
    "no rows": (records(), "no rows"),
    "no columns": (records({}, {}), "no column 'age_years'"),
    "rows that are none": (records(1, "a", None), "row 0: a number"),
    "too many rows": (records(*[PATIENT] * 1025), "1,02"),
    "a list": (b"[1]", "a list"),
    "null": (b"null", "null"),
    "two layouts": (b'{"inputs": {}, "instances": []}', "2 of them with rows"),
    "unknown keys": (b'{"inputs": {}, "a": 1}', "2 keys"),
    "params that are none": (b'{"instances": [{}], "params": [1]}', "params: a list"),
    "unequal rows": (b'{"dataframe_split": {"columns": ["a"], "data": [[1, 2]]}}', "2 cells"),
    "unequal columns": (b'{"inputs": {"a": [1], "b": [1, 2]}}', "unequal lengths"),
    "split that is none": (b'{"dataframe_split": [1]}', "a list"),
}


@pytest.fixture(scope="module")
def shared(kept_mlp):
    with serving(kept_mlp) as address:
        yield address


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_body_gets_a_small_answer_that_names_the_fault(shared, attack, capfd, caplog):
    body, named = ATTACKS[attack]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    status, answer, size = post(shared, body)
    assert status == 400, answer
    assert named in answer["message"]
    assert size < 16_384
    assert time.monotonic() - started < 10
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 700_000, "KiB"
    assert len(capfd.readouterr().err) + len(caplog.text) < 16_384
    check_alive(shared)


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"other": True}, "unknown key 'other', 1 such keys"),
        ({"shap": 1}, "params, shap"),
        ({f"p{n}": True for n in range(100_000)}, "100,000 such keys"),
    ],
)
def test_params_that_are_unknown_are_named(shared, params, named):
    status, answer, size = ask(shared, dataframe_records=[PATIENT], params=params)
    assert status == 400
    assert named in answer["message"]
    assert size < 16_384


def test_many_faults_are_counted(tmp_path_factory, image):
    with serving(image) as address:
        status, answer, size = ask(address, dataframe_records=[{"image": "x" * 900}] * 1000)
    assert status == 400
    assert "1,000 faults" in answer["message"]
    assert "980 more" in answer["message"]
    assert len(answer["faults"]) == 20
    assert size < 32_768


def test_all_layouts_are_answered_alike(shared):
    names, cells = list(PATIENT), list(PATIENT.values())
    answers = [
        ask(shared, **document)[:2]
        for document in (
            {"dataframe_records": [PATIENT, PATIENT]},
            {"instances": [PATIENT, PATIENT]},
            {"inputs": {name: [cell, cell] for name, cell in PATIENT.items()}},
            {"inputs": [PATIENT, PATIENT]},
            {"dataframe_split": {"columns": names, "data": [cells, cells]}},
        )
    ]
    assert [status for status, _ in answers] == [200] * 5
    assert [body for _, body in answers] == [answers[0][1]] * 5


def test_unknown_values_may_be_null_or_nan_or_absent_in_some_rows(shared):
    rows = [PATIENT, PATIENT | {"albumin": None}, PATIENT | {"albumin": float("nan")}]
    rows.append({name: value for name, value in PATIENT.items() if name != "albumin"})
    status, body, _ = ask(shared, dataframe_records=rows)
    assert status == 200
    first, *others = body["predictions"]
    assert others == [others[0]] * 3
    assert first != others[0]


def test_pixels_are_lists_too(image, patches):
    with serving(image) as address:
        status, body, _ = ask(address, dataframe_records=[{"image": patches[0].tolist()}])
    assert status == 200
    assert sum(v for k, v in body["predictions"][0].items() if "probability" in k) == (
        pytest.approx(1)
    )


def test_explanations_are_null_where_there_is_no_record(fusion, patches):
    rows = [{"image": patches[0].tolist()} | PATIENT, {"image": patches[1].tolist()}]
    with serving(fusion) as address:
        status, body, _ = ask(address, dataframe_records=rows, params={"shap": True})
    assert status == 200
    assert [row["shap"] is None for row in body["predictions"]] == [False, True]


def test_an_answer_that_is_not_finite_is_an_error(tabular, monkeypatch):
    real = type(Endpoint({"bundle": str(tabular.path)}).predictor).answer

    def answer(self, records, *, shap=False):
        return real(self, records, shap=shap).assign(probability_death=np.nan)

    monkeypatch.setattr("histofuse.serving.tabular.TabularPredictor.answer", answer)
    with serving(tabular) as address:
        status, body, _ = ask(address, dataframe_records=[PATIENT])
    assert status == 500
    assert "NaN" not in json.dumps(body)


# --- HTTP ---------------------------------------------------------------------------------------


def test_chunks_without_a_length(address):
    body = records(PATIENT)
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (body[:10], body[10:]))
    head = make_head(None, "Transfer-Encoding: chunked", "Connection: close")
    assert b" 200 " in send(address, head + chunks + b"0\r\n\r\n")[:20]


def test_compressed_bodies_are_refused(address):
    body = gzip.compress(records(PATIENT))
    answer = send(address, make_head(len(body), "Content-Encoding: gzip") + body)
    assert b" 415 " in answer[:20]


@pytest.mark.parametrize(
    ("status", "head"),
    [
        (431, b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 30_000 + b"\r\n\r\n"),
        (431, b"GET /" + b"a" * 30_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"),
        (431, b"GET /?" + b"a" * 30_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 10 * MIB),
        (400, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
        (400, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n"),
        (400, b"\xff" * 1000 + b"\r\n\r\n"),
        (400, b"nonsense\r\n\r\n"),
    ],
)
def test_heads_that_are_too_large_or_wrong_are_refused(address, status, head):
    with socket.create_connection(address, timeout=10) as client:
        with suppress(ConnectionError):
            client.sendall(head)
        answer = read_all(client)
    assert b" %d " % status in answer[:20] or (not answer and len(head) > MIB)
    assert len(answer) < 1024
    check_alive(address)


def test_a_body_shorter_than_stated_is_given_up(tabular):
    with serving(tabular, SHORT) as address:
        answer = send(address, make_head(1000) + b'{"half', timeout=10)
        check_alive(address)
    assert b" 408 " in answer[:20]


def test_a_body_longer_than_stated_is_cut(address):
    body = records(PATIENT)
    answer = send(address, make_head(len(body)) + body + b"\0" * 1000)
    assert answer.count(b"HTTP/1.1") == 2
    assert b" 400 " in answer.split(b"HTTP/1.1")[2][:10]


def test_requests_in_one_piece_are_answered_in_order(address):
    body = records(PATIENT)
    one = make_head(len(body)) + body
    other = one.replace(b'"age_years": 62', b'"age_years": XX')
    answer = send(address, one + other + one.replace(b"Host: x", b"Host: x\r\nConnection: close"))
    statuses = [part[:4].strip() for part in answer.split(b"HTTP/1.1")[1:]]
    assert statuses == [b"200", b"400", b"200"]


def test_unfinished_bodies_neither_hold_memory_nor_the_others_up(tabular):
    with serving(tabular, SHORT) as address:
        half = make_head(32 * MIB) + b" " * 16 * MIB
        clients = [socket.create_connection(address, timeout=20) for _ in range(20)]

        def send_half(client):
            with suppress(OSError):
                client.sendall(half)

        senders = [threading.Thread(target=send_half, args=[client]) for client in clients]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for thread in senders:
            thread.start()
        time.sleep(0.3)
        started = time.monotonic()
        check_alive(address)
        assert time.monotonic() - started < 1
        for client in clients:
            with client:
                assert read_all(client)[9:12] in {b"408", b"503", b""}
        assert time.monotonic() - started < 10
        for thread in senders:
            thread.join()
        # Twenty halves are 320 MiB.
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000


def test_a_slow_head_is_closed(tabular, monkeypatch):
    monkeypatch.setattr(module, "HEAD_SECONDS", 0.5)
    with serving(tabular) as address:
        with socket.create_connection(address, timeout=10) as silent:
            assert read_all(silent) == b""
        with socket.create_connection(address, timeout=10) as slow:
            started = time.monotonic()
            with pytest.raises(OSError):
                for _ in range(100):
                    slow.sendall(b"X: y\r\n" if _ else b"GET /ping HTTP/1.1\r\n")
                    time.sleep(0.05)
            assert time.monotonic() - started < 2
        check_alive(address)


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_an_answered_request_does_not_hold_its_connection_by_an_unfinished_body(
    tabular, monkeypatch, method
):
    monkeypatch.setattr(module, "SENT_SECONDS", 0.5)
    with serving(tabular) as address, socket.create_connection(address, timeout=5) as client:
        client.sendall(method.encode() + b" /ping HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        assert client.recv(100)
        client.sendall(b"x")  # uvicorn waits for no more requests once something has come
        with suppress(ConnectionError):
            while client.recv(100):
                pass


def test_a_client_that_does_not_read_is_closed(tabular, monkeypatch):
    monkeypatch.setattr(module, "SENT_SECONDS", 0.5)
    long = "x" * 20 * MIB

    def answer(self, records, *, shap=False):
        return records[[]].assign(prediction=long)

    with serving(tabular) as address:
        monkeypatch.setattr("histofuse.serving.tabular.TabularPredictor.answer", answer)
        body = records(PATIENT)
        with socket.create_connection(address, timeout=10) as idle:
            idle.sendall(make_head(len(body)) + body)
            time.sleep(1.5)
            received = len(read_all(idle))
    assert received < 20 * MIB


def test_too_many_connections_are_answered_at_once(tabular, monkeypatch):
    monkeypatch.setattr(module, "CONNECTIONS", 5)
    with serving(tabular) as address:
        held = [socket.create_connection(address) for _ in range(5)]
        time.sleep(0.2)
        assert b" 503 " in send(address, b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")[:20]
        for connection in held:
            connection.close()
        time.sleep(0.2)
        check_alive(address)


def test_a_model_that_is_busy_says_so_and_computes_nothing_for_those_who_left(tabular, monkeypatch):
    release, computed = threading.Event(), []

    def answer(self, records, *, shap=False):
        computed.append(len(records))
        release.wait(timeout=20)
        raise RuntimeError

    with serving(tabular, replace(LIMITS, answer_seconds=0.5)) as address:
        monkeypatch.setattr("histofuse.serving.tabular.TabularPredictor.answer", answer)
        answers = [ask(address, dataframe_records=[PATIENT])[0] for _ in range(3)]
        release.set()
    assert answers == [503, 503, 503]
    assert computed == [1]


def test_when_nothing_is_computed_any_more_the_server_says_so_and_ends(tabular, monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr("os.kill", lambda *_: ended.set())

    def answer(self, records, *, shap=False):
        raise SystemExit

    with serving(tabular) as address:
        monkeypatch.setattr("histofuse.serving.tabular.TabularPredictor.answer", answer)
        assert ask(address, dataframe_records=[PATIENT])[0] == 500
        assert ask(address, dataframe_records=[PATIENT])[0] == 500
        ping = send(address, b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b" 503 " in ping[:20]
    assert ended.is_set()

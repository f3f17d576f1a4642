"""What becomes of processes that die, freeze or load, and of those whose supervisor dies: real, tiny processes."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from redoma_cli.local.home import Home
from redoma_cli.local.keeper import Keeper, KeeperTimes, Patience
from redoma_cli.local.membership import service_identity
from redoma_cli.local.pki import DevelopmentAuthority
from redoma_cli.local.plan import ProbeSpec, ProcessSpec, log_file, pid_file, write_plan
from redoma_cli.local.probe import Answer, Probe, open_probe
from redoma_cli.local.process import (
    PidFile,
    ProcessIdentity,
    RunningProcess,
    current_identity,
    holds_deleted_file,
    start_ticks,
)
from redoma_cli.local.state import Journal, State, read_states, state_file
from redoma_cli.local.stop import SiteStopper
from redoma_cli.local.supervisor import (
    RELOAD,
    STEP_ASIDE,
    await_supervisor,
    bound_log,
    follows_this_program,
    running_supervisor,
    start_supervisor,
    tell_supervisor,
)
from redoma_cli.local.up import SiteStarter
from tests.unit.cli.joined import write_membership

GENEROUS_S = 60.0
PROGRAM = str(Path(__file__).with_name("tiny_process.py"))


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Returns once the condition holds."""
    deadline = time.monotonic() + GENEROUS_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def spec_of(name: str, fingerprint: str = "one") -> ProcessSpec:
    """A tiny process."""
    return ProcessSpec(name, (sys.executable, PROGRAM, name), {}, ProbeSpec("envoy", f"{name}.sock"), fingerprint)


def pid_of(home: Home, name: str) -> int:
    """The pid of the running process of that name, 0 if there is none."""
    identity = PidFile(pid_file(home, name)).alive()
    return identity.pid if identity else 0


def state_of(home: Home, name: str) -> State:
    """How the supervisor saw the process last."""
    state = read_states(home).get(name)
    return state.state if state else State.STOPPED


@pytest.fixture
def site(home: Home) -> Iterator[Home]:
    """A home with two tiny processes planned, whatever ran in it ended afterwards."""
    for name in ("model", "chat"):
        (home.run / f"{name}.ready").touch()
    write_plan(home, [spec_of("model"), spec_of("chat")])
    try:
        yield home
    finally:
        supervisor = running_supervisor(home)
        if supervisor is not None:
            tell_supervisor(supervisor, signal.SIGKILL)
            eventually(lambda: not supervisor.alive(), "the supervisor ends")
        SiteStopper(home, print).stop(1)


def supervised(home: Home) -> ProcessIdentity:
    """Starts a supervisor and waits until its processes are ready."""
    start_supervisor(home)
    eventually(lambda: running_supervisor(home) is not None, "the supervisor runs")
    eventually(lambda: all(state_of(home, name) is State.READY for name in ("model", "chat")), "all are ready")
    supervisor = running_supervisor(home)
    assert supervisor is not None
    return supervisor


def test_killed_process_is_started_again_and_the_other_is_left_alone(site: Home) -> None:
    supervised(site)
    killed, other = pid_of(site, "model"), pid_of(site, "chat")
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: pid_of(site, "model") not in (0, killed), "it is started again")
    eventually(lambda: state_of(site, "model") is State.READY, "it is ready again")
    assert pid_of(site, "chat") == other
    assert read_states(site)["model"].restarts == 1


def test_killed_supervisor_leaves_processes_running_and_the_next_adopts_them(site: Home) -> None:
    first = supervised(site)
    before = (pid_of(site, "model"), pid_of(site, "chat"))
    os.kill(first.pid, signal.SIGKILL)
    eventually(lambda: not first.alive(), "the supervisor is dead")
    assert (pid_of(site, "model"), pid_of(site, "chat")) == before
    second = supervised(site)
    assert second != first
    assert (pid_of(site, "model"), pid_of(site, "chat")) == before
    assert (site.run / "model.starts").read_text().split() == [str(before[0])]
    os.kill(before[0], signal.SIGKILL)
    eventually(lambda: pid_of(site, "model") not in (0, before[0]), "an adopted process is started again too")


def test_changed_configuration_starts_only_that_process_anew(site: Home) -> None:
    supervisor = supervised(site)
    model, chat = pid_of(site, "model"), pid_of(site, "chat")
    write_plan(site, [spec_of("model", "two"), spec_of("chat")])
    tell_supervisor(supervisor, RELOAD)
    eventually(lambda: pid_of(site, "model") not in (0, model), "it follows its new configuration")
    assert pid_of(site, "chat") == chat
    tell_supervisor(supervisor, signal.SIGKILL)
    eventually(lambda: not supervisor.alive(), "the supervisor is dead")
    write_plan(site, [spec_of("model", "two"), spec_of("chat", "two")])
    start_supervisor(site)
    eventually(lambda: pid_of(site, "chat") not in (0, chat), "one that is adopted with an old configuration does too")


def test_second_supervisor_gives_way(site: Home) -> None:
    first = supervised(site)
    second = start_supervisor(site)
    eventually(lambda: not second.alive(), "it ends")
    assert running_supervisor(site) == first
    assert "another supervisor runs already" in log_file(site, "supervisor").read_text()


def test_supervisor_that_steps_aside_leaves_processes_running(site: Home) -> None:
    supervisor = supervised(site)
    before = pid_of(site, "model")
    tell_supervisor(supervisor, STEP_ASIDE)
    eventually(lambda: not supervisor.alive(), "it ends")
    assert pid_of(site, "model") == before


def test_terminated_supervisor_takes_the_site_down(site: Home) -> None:
    supervisor = supervised(site)
    model, chat = PidFile(pid_file(site, "model")).alive(), PidFile(pid_file(site, "chat")).alive()
    assert model is not None
    assert chat is not None
    tell_supervisor(supervisor, signal.SIGTERM)
    eventually(lambda: not supervisor.alive(), "it ends")
    assert not model.alive()
    assert not chat.alive()


def test_site_without_supervisor_is_stopped_by_its_pid_files(site: Home) -> None:
    supervisor = supervised(site)
    tell_supervisor(supervisor, signal.SIGKILL)
    eventually(lambda: not supervisor.alive(), "the supervisor is dead")
    assert SiteStopper(site, print).stop(30) == 2
    assert (pid_of(site, "model"), pid_of(site, "chat")) == (0, 0)
    assert SiteStopper(site, print).stop(30) == 0


def test_frozen_process_is_stopped_too(site: Home) -> None:
    supervisor = supervised(site)
    tell_supervisor(supervisor, signal.SIGKILL)
    eventually(lambda: not supervisor.alive(), "the supervisor is dead")
    os.kill(pid_of(site, "model"), signal.SIGSTOP)
    assert SiteStopper(site, print).stop(0) == 2
    assert pid_of(site, "model") == 0


def test_pid_taken_by_another_process_is_never_signalled(home: Home) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        real = start_ticks(bystander.pid)
        assert real is not None
        PidFile(pid_file(home, "model")).write(ProcessIdentity(bystander.pid, real - 1), "one")
        assert SiteStopper(home, print).stop(0) == 0
        assert bystander.poll() is None
        adopted = RunningProcess.adopt(ProcessIdentity(bystander.pid, real))
        assert adopted is not None
        adopted.send(signal.SIGKILL)
        assert adopted.ended(GENEROUS_S)
        adopted.close()
    finally:
        bystander.kill()
        bystander.wait()


@contextlib.contextmanager
def keeping(
    home: Home, name: str, times: KeeperTimes, opener: Callable[[ProbeSpec, Path], Probe] = open_probe
) -> Iterator[None]:
    """Keeps one tiny process on a thread of this process."""
    keeper = Keeper(
        spec=spec_of(name),
        pid_file=PidFile(pid_file(home, name)),
        log_file=log_file(home, name),
        run_directory=home.run,
        journal=Journal(state_file(home)),
        open_probe=opener,
        say=print,
        clock=time.monotonic,
        times=times,
    )
    keeper.start()
    try:
        yield
    finally:
        keeper.let_go()
        keeper.join()
        SiteStopper(home, print).stop(0)


def test_frozen_process_is_killed_and_started_again(home: Home) -> None:
    (home.run / "model.ready").touch()
    with keeping(home, "model", KeeperTimes(silence_s=1.0, watch_s=0.05)):
        eventually(lambda: state_of(home, "model") is State.READY, "it is ready")
        frozen = pid_of(home, "model")
        os.kill(frozen, signal.SIGSTOP)
        eventually(lambda: pid_of(home, "model") not in (0, frozen), "it is started again")


def test_loading_process_is_left_to_load(home: Home) -> None:
    with keeping(home, "model", KeeperTimes(silence_s=0.2, start_watch_s=0.05, watch_s=0.05)):
        eventually(lambda: state_of(home, "model") is State.LOADING, "it answers")
        loading = pid_of(home, "model")
        asked = log_file(home, "model").read_text().count("asked")
        # Many more questions than would take it past silence_s, were answers of this kind silence.
        eventually(lambda: log_file(home, "model").read_text().count("asked") > asked + 15, "it is asked on")
        assert pid_of(home, "model") == loading
        (home.run / "model.ready").touch()
        eventually(lambda: state_of(home, "model") is State.READY, "it is ready")
        assert pid_of(home, "model") == loading


def test_silence_counts_less_before_the_first_answer_than_after_it() -> None:
    times = KeeperTimes(silence_s=10, start_s=120)
    patience = Patience(times, 0, answered=False)
    assert patience.hear(Answer.SILENT, 119) is State.STARTING
    assert not patience.exhausted
    assert patience.hear(Answer.NOT_READY, 119.5) is State.LOADING
    assert patience.hear(Answer.READY, 120) is State.READY
    assert patience.hear(Answer.SILENT, 129) is State.SILENT
    assert not patience.exhausted
    patience.hear(Answer.SILENT, 130)
    assert patience.exhausted
    patience = Patience(times, 0, answered=False)
    patience.hear(Answer.SILENT, 120)
    assert patience.exhausted


def test_only_long_readiness_is_steady() -> None:
    patience = Patience(KeeperTimes(steady_s=30), 0, answered=False)
    patience.hear(Answer.READY, 1)
    assert not patience.steady
    patience.hear(Answer.SILENT, 20)
    patience.hear(Answer.READY, 21)
    patience.hear(Answer.READY, 50)
    assert not patience.steady
    patience.hear(Answer.READY, 51)
    assert patience.steady


def test_grown_log_is_moved_aside_and_its_writer_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "model.log"
    with file.open("ab", buffering=0) as writer:
        writer.write(b"x" * 101)
        bound_log(file, 100)
        writer.write(b"after")
    assert file.read_bytes() == b"after"
    assert file.with_name("model.log.1").stat().st_size == 101
    bound_log(file, 100)
    assert file.read_bytes() == b"after"


def test_own_identity_is_alive() -> None:
    me = current_identity()
    assert me.alive()
    assert not ProcessIdentity(me.pid, me.start_ticks + 1).alive()


def test_records_that_were_taken_away_or_spoiled_are_made_anew_and_processes_run_on(site: Home) -> None:
    supervisor = supervised(site)
    before = (pid_of(site, "model"), pid_of(site, "chat"))
    for name in ("supervisor", "model"):
        pid_file(site, name).unlink()
    PidFile(pid_file(site, "chat")).write(ProcessIdentity(os.getpid(), 1), "one")
    state_file(site).unlink()
    eventually(lambda: running_supervisor(site) == supervisor, "the supervisor is recorded again")
    eventually(lambda: (pid_of(site, "model"), pid_of(site, "chat")) == before, "so are its processes")
    eventually(lambda: state_of(site, "model") is State.READY, "and their states")
    assert await_supervisor(site) == supervisor


def test_supervisor_whose_record_and_lock_were_taken_away_gives_way_to_the_next(site: Home) -> None:
    first = supervised(site)
    before = pid_of(site, "model")
    tell = os.pidfd_open(first.pid)
    signal.pidfd_send_signal(tell, signal.SIGSTOP)
    (site.run / "supervisor.lock").unlink()
    pid_file(site, "supervisor").unlink()
    second = start_supervisor(site)
    eventually(lambda: running_supervisor(site) == second, "the second takes over")
    signal.pidfd_send_signal(tell, signal.SIGCONT)
    os.close(tell)
    eventually(lambda: not first.alive(), "the first ends")
    assert running_supervisor(site) == second
    assert pid_of(site, "model") == before


def test_halted_supervisor_obeys(site: Home) -> None:
    supervisor = supervised(site)
    os.kill(supervisor.pid, signal.SIGSTOP)
    eventually(supervisor.halted, "it is halted")
    tell_supervisor(supervisor, STEP_ASIDE)
    eventually(lambda: not supervisor.alive(), "it ends")


def test_halted_processes_are_ended_without_being_killed(site: Home) -> None:
    supervisor = supervised(site)
    tell_supervisor(supervisor, signal.SIGKILL)
    eventually(lambda: not supervisor.alive(), "the supervisor is dead")
    for name in ("model", "chat"):
        os.kill(pid_of(site, name), signal.SIGSTOP)
    said: list[str] = []
    assert SiteStopper(site, said.append).stop(30) == 2
    assert said == []


def test_process_that_can_not_be_asked_is_kept_until_it_can(home: Home) -> None:
    (home.run / "model.ready").touch()
    identity = home.pki / "tls.key"

    def open_with_identity(spec: ProbeSpec, directory: Path) -> Probe:
        identity.read_bytes()
        return open_probe(spec, directory)

    with keeping(home, "model", KeeperTimes(longest_backoff_s=0.05), open_with_identity):
        eventually(lambda: state_of(home, "model") is State.SILENT, "nobody can ask it")
        pid = pid_of(home, "model")
        identity.write_bytes(b"")
        eventually(lambda: state_of(home, "model") is State.READY, "it is asked")
        assert pid_of(home, "model") == pid


def test_state_that_a_full_disk_refused_is_written_with_the_next_record(home: Home) -> None:
    journal = Journal(state_file(home))
    home.run.rename(home.root / "away")
    journal.record("model", State.READY, None, 0)
    (home.root / "away").rename(home.run)
    journal.record("model", State.READY, None, 0)
    assert state_of(home, "model") is State.READY


def test_file_deleted_under_a_process_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "chat.db"
    with file.open("w"):
        assert not holds_deleted_file(os.getpid(), tmp_path)
        file.unlink()
        assert holds_deleted_file(os.getpid(), tmp_path)
        assert not holds_deleted_file(os.getpid(), tmp_path / "other")
    assert not holds_deleted_file(os.getpid(), tmp_path)


def starter(home: Home) -> SiteStarter:
    """Starts plans in a home."""
    return SiteStarter(home, None)


def test_what_is_not_wanted_any_more_ends_and_the_rest_runs_on(site: Home) -> None:
    supervised(site)
    chat = pid_of(site, "chat")
    model = PidFile(pid_file(site, "model")).alive()
    assert model is not None
    starter(site).start([spec_of("chat")], lambda states: None, lambda: True)
    assert not model.alive()
    assert pid_of(site, "chat") == chat
    assert not pid_file(site, "model").exists()


def test_everything_ends_where_a_site_is_to_begin_anew(site: Home) -> None:
    supervised(site)
    starter(site).clear()
    assert (pid_of(site, "model"), pid_of(site, "chat")) == (0, 0)
    assert running_supervisor(site) is None


def test_supervisor_of_another_version_is_replaced_and_its_processes_are_adopted(site: Home) -> None:
    first = supervised(site)
    before = (pid_of(site, "model"), pid_of(site, "chat"))
    os.kill(first.pid, signal.SIGSTOP)
    PidFile(pid_file(site, "supervisor")).write(first, "another version")
    assert not follows_this_program(site)
    starter(site).start([spec_of("model"), spec_of("chat")], lambda states: None, lambda: True)
    assert running_supervisor(site) not in (None, first)
    assert follows_this_program(site)
    assert (pid_of(site, "model"), pid_of(site, "chat")) == before


def test_process_runs_and_is_asked_in_its_own_directory(home: Home) -> None:
    directory = home.private.run
    spec = replace(spec_of("model"), directory=str(directory))
    write_plan(home, [spec])
    start_supervisor(home)
    try:
        eventually((directory / "model.starts").exists, "it is started there")
        (directory / "model.ready").touch()
        eventually(lambda: state_of(home, "model") is State.READY, "it is asked there")
    finally:
        supervisor = await_supervisor(home)
        assert supervisor is not None
        tell_supervisor(supervisor, signal.SIGKILL)
        eventually(lambda: not supervisor.alive(), "the supervisor ends")
        SiteStopper(home, print).stop(1)


class Healthy(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Is ready, and notes who asked."""

    def __init__(self) -> None:
        self.certificates: list[object] = []

    def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        self.certificates.extend(context.auth_context()["x509_pem_cert"])
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


def test_socket_with_a_long_path_is_asked_with_the_identity_that_lies_there_now(tmp_path: Path) -> None:
    home = Home(tmp_path / ("long" * 25))
    home.create()
    DevelopmentAuthority(home.pki).ensure()
    membership = write_membership(home)
    files = service_identity(membership, "model")
    healthy = Healthy()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    credentials = grpc.ssl_server_credentials(
        [(files.key.read_bytes(), files.certificate.read_bytes())], files.ca.read_bytes(), require_client_auth=True
    )
    short = tmp_path / "s"
    short.symlink_to(home.private.run)
    server.add_secure_port(f"unix:{short}/model.sock", credentials)
    server.start()
    identity = service_identity(membership, "supervisor")
    probe = open_probe(
        ProbeSpec("grpc", "unix:model.sock", "model.private.redoma", str(identity.directory)), home.private.run
    )
    try:
        eventually(lambda: probe.ask() is Answer.READY, "it answers")
        assert healthy.certificates[-1] == identity.certificate.read_bytes()
        write_membership(home)
        eventually(lambda: probe.ask() is Answer.READY, "it answers")
        assert healthy.certificates[-1] == identity.certificate.read_bytes()
        assert len(set(healthy.certificates)) == 2
        # While the new ones are being written, it is asked with the former one.
        (membership / "current").unlink()
        assert probe.ask() is Answer.READY
    finally:
        probe.close()
        server.stop(None)

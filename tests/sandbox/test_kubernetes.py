"""The Kubernetes sandbox against a cluster of our own that speaks the API calls it uses: no real one runs here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from kubernetes_asyncio import client

from retinue.kernel import Settings
from retinue.sandbox import Level, Limits, Sandbox, SandboxFailed, SandboxRefused, choose
from retinue.sandbox.conformance import SandboxConformance
from retinue.sandbox.kubernetes import Kubernetes
from tests.support.cluster import Cluster
from tests.support.sandboxes import make_job, run_job


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    found = Cluster(tmp_path / "jobs")
    await found.open()
    yield found
    await found.close()


def kubernetes(cluster: Cluster, image: str = "image", runtime_class: str | None = "gvisor") -> Kubernetes:
    """A sandbox that speaks to the cluster."""
    api = client.ApiClient(client.Configuration(host=cluster.url))
    return Kubernetes(cluster.volume, image, "claim", "space", runtime_class, api)


class TestKubernetes(SandboxConformance):
    level = Level.B
    reaches_gateway = False

    @pytest_asyncio.fixture(autouse=True)
    async def _cluster(self, cluster: Cluster) -> None:
        self.cluster = cluster

    async def make_sandbox(self, folder: Path) -> Sandbox:
        return kubernetes(self.cluster)

    async def test_output_and_errors_arrive_whole_and_apart(self, sandbox: Sandbox) -> None:
        """Whole, but not apart: the cluster keeps one log."""
        job = await self.job(sandbox, "for i in $(seq 500); do echo out $i; echo err $i >&2; done")
        _, output, _ = await self.run(sandbox, job)
        assert [line for line in output.splitlines() if "out" in line] == [f"out {one}" for one in range(1, 501)]
        assert [line for line in output.splitlines() if "err" in line] == [f"err {one}" for one in range(1, 501)]

    async def test_a_file_that_is_shown_can_be_read_and_not_changed(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """Files of this machine cannot be shown to another."""
        with pytest.raises(SandboxRefused):
            await self.run(sandbox, await self.job(sandbox, "true", read_only={tmp_path: "/opt/x"}))

    async def test_a_slow_listener_slows_the_program_down(self, sandbox: Sandbox) -> None:
        """Not here: the cluster keeps the log, and the program does not wait for who reads it. Too much ends it."""

    async def test_use_is_measured(self, sandbox: Sandbox) -> None:
        """What is reserved counts as used."""
        ended, _, _ = await self.run(sandbox, await self.job(sandbox, "sleep 1"))
        assert ended.usage.peak_memory == 256 << 20
        assert 0 < ended.usage.cpu_seconds <= ended.usage.seconds

    async def test_processor_time_of_children_that_are_gone_is_counted(self, sandbox: Sandbox) -> None:
        """As above."""

    async def test_a_program_can_be_talked_to(self, sandbox: Sandbox) -> None:
        with pytest.raises(SandboxRefused):
            await sandbox.interactive(await self.job(sandbox, "cat"))

    async def test_a_conversation_that_is_left_is_over(self, sandbox: Sandbox) -> None:
        """There are none."""


async def test_the_pod_is_closed_on_every_side(cluster: Cluster) -> None:
    sandbox = kubernetes(cluster)
    probe = await sandbox.probe()
    assert probe.level is Level.B, probe
    (policy,) = cluster.policies
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & set(policy["spec"])
    limits = Limits(seconds=20, memory=64 << 20, cores=0.5)
    await run_job(sandbox, await make_job(sandbox, ["true"], limits=limits))
    job = list(cluster.jobs.values())[-1]
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert job["spec"]["backoffLimit"] == 0
    assert (pod["runtimeClassName"], pod["restartPolicy"]) == ("gvisor", "Never")
    assert not pod["automountServiceAccountToken"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] > 0
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "privileged": False,
        "readOnlyRootFilesystem": True,
    }
    assert container["resources"]["limits"] == {"cpu": "500m", "memory": str(64 << 20)}
    assert cluster.boxes == {}
    await sandbox.close()


async def test_a_cluster_that_refuses_is_told_as_it_said(cluster: Cluster) -> None:
    sandbox = kubernetes(cluster, image="forbidden")
    with pytest.raises(SandboxFailed, match="Forbidden"):
        await run_job(sandbox, await make_job(sandbox, ["true"]))
    assert (await sandbox.probe()).level is Level.D
    await sandbox.close()


async def test_without_a_volume_claim_there_is_no_sandbox(tmp_path: Path) -> None:
    with pytest.raises(SandboxRefused, match="RETINUE_SANDBOX_CLAIM"):
        await choose(Settings(data=tmp_path, sandbox="kubernetes"))

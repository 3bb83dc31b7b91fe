"""Jobs of a Kubernetes cluster; gVisor by its runtime class.

The workspace reaches the pod through a volume claim that holds this server's folder of jobs. A policy of the namespace
denies every connection; whether the cluster keeps it is tried before anything is run. A unix socket does not reach
another machine, so jobs that use a model are refused.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

from kubernetes_asyncio import client, config
from kubernetes_asyncio.client.exceptions import ApiException

from retinue.kernel import Settings, new_id
from retinue.sandbox import workspaces
from retinue.sandbox.bubblewrap_command import SHARED, TEMPORARY, environment
from retinue.sandbox.identities import borrow
from retinue.sandbox.jobs import (
    HOME,
    WORK,
    Ended,
    Finding,
    Interactive,
    Job,
    Limits,
    OnOutput,
    OnUsage,
    Probe,
    Reason,
    SandboxFailed,
    SandboxRefused,
    Stream,
    Workspace,
)
from retinue.sandbox.levels import Level
from retinue.sandbox.local import FolderSandbox
from retinue.sandbox.means import Means
from retinue.sandbox.remote import Container, Gone, Tally, carry_out
from retinue.sandbox.volumes import Kind, inodes
from retinue.sandbox.watching import Disk

_LABEL, _PLACE = "retinue.dev/job", "retinue.dev/place"
_APP = {"app.kubernetes.io/name": "retinue-sandbox"}
_POLICY = "retinue-sandbox-deny"
_POLL_SECONDS = 0.3
_PATIENCE = 120.0

# Whatever answers at the address of the cluster's own API would answer to others, too.
_LOOK = (
    "exec 2>/dev/null; [ $(id -u) = 0 ] && echo root; "
    'timeout 3 bash -c "exec 3<>/dev/tcp/$KUBERNETES_SERVICE_HOST/$KUBERNETES_SERVICE_PORT" '
    '&& echo "it has a network"; '
    "exit 0"
)


class Kubernetes(FolderSandbox):
    """Runs each job as a Job of a cluster.

    Args:
        folder: where the jobs' folders are made; ``claim`` shows the same files to the cluster.
        image: the image of every pod.
        claim: the name of the volume claim.
        namespace: where Jobs are made.
        runtime_class: such as ``gvisor``; None: the cluster's own choice.
        api: the client; None: as the pod's service account or ``KUBECONFIG`` says.
    """

    name = "kubernetes"

    def __init__(
        self,
        folder: Path,
        image: str,
        claim: str,
        namespace: str,
        runtime_class: str | None = None,
        api: client.ApiClient | None = None,
    ) -> None:
        super().__init__(folder, Means(None, Kind.FOLDER))
        self._image, self._claim, self._namespace = image, claim, namespace
        self._runtime_class = runtime_class
        self._api = api
        self._place = workspaces.place_of(folder)

    @classmethod
    def from_settings(cls, settings: Settings) -> Kubernetes:
        """Return the sandbox that the settings describe. SandboxRefused without a volume claim."""
        if settings.sandbox_claim is None:
            raise SandboxRefused("Set RETINUE_SANDBOX_CLAIM to the volume claim that holds <data>/sandboxes.")
        return cls(
            settings.data / "sandboxes",
            settings.sandbox_image,
            settings.sandbox_claim,
            settings.sandbox_namespace,
            settings.sandbox_runtime,
        )

    async def probe(self) -> Probe:
        """Deny every connection, and run a program that tries one."""
        try:
            await self._deny()
            job_id = f"probe-{new_id()}"
            workspace = await self.prepare(job_id, Limits())
            said: list[bytes] = []
            argv = ["/bin/sh", "-c", _LOOK]
            job = Job(job_id=job_id, argv=argv, workspace=workspace, limits=Limits(seconds=120))
            try:
                ended = await self.run(job, lambda _stream, data: said.append(data))
            finally:
                await self.wipe(workspace)
        except (ApiException, OSError, SandboxFailed, SandboxRefused, config.ConfigException) as error:
            return Probe(Level.D, (Finding("cluster", False, getattr(error, "detail", None) or _reason(error)),))
        if said or ended.exit_code != 0:
            text = b"".join(said).decode("utf-8", "replace").strip() or f"it ended with {ended.exit_code}"
            return Probe(Level.D, (Finding("walls", False, text),))
        runtime = Finding("runtime", True, self._runtime_class or "the cluster's own")
        model = Finding("model gateway", False, "a pod does not reach it: operations that need a model are refused")
        return Probe(ended.level, (Finding("walls", True, "no network, no root"), runtime, model))

    async def run(self, job: Job, on_output: OnOutput, on_usage: OnUsage | None = None) -> Ended:
        """Run a job in a pod."""
        if not Level.B.reaches(job.minimum):
            raise SandboxRefused(f"Level {job.minimum} is asked for, and level {Level.B} is what a pod keeps.")
        if job.socket is not None or job.read_only:
            raise SandboxRefused("A pod reaches neither the model gateway nor files of this machine.")
        identity = borrow()
        try:
            if job.stdin is not None:
                await asyncio.to_thread((job.workspace.temporary / "stdin").write_bytes, job.stdin)
            if identity.private:
                await asyncio.to_thread(workspaces.hand_over, job.workspace, identity.uid, identity.gid)
            body = self._manifest(job, identity.uid, identity.gid)
            running = _Running(await self._client(), self._namespace, body, job)
            return await carry_out(running, job.limits, on_output, Level.B, on_usage)
        finally:
            identity.give_back()

    async def interactive(
        self, job: Job, on_error: OnOutput | None = None, on_usage: OnUsage | None = None
    ) -> Interactive:
        """Not offered."""
        raise SandboxRefused("Pods cannot be talked to; use a driver without a conversation.")

    async def reap(self, job_id: str) -> None:
        """Delete the job's Job and its pods, then its folders."""
        workspace = workspaces.workspace_of(self._folder, job_id)
        await _delete(await self._client(), self._namespace, self._name(workspace))
        await super().reap(job_id)

    async def close(self) -> None:
        """Close the connection to the cluster."""
        if self._api is not None:
            await self._api.close()
            self._api = None

    async def _client(self) -> client.ApiClient:
        if self._api is None:
            try:
                config.load_incluster_config()  # type: ignore[no-untyped-call]
            except config.ConfigException:
                await config.load_kube_config()
            self._api = client.ApiClient()
        return self._api

    async def _deny(self) -> None:
        """Make the policy that allows nothing. 409: it is there."""
        body: Any = {
            "metadata": {"name": _POLICY, "labels": _APP},
            "spec": {"podSelector": {"matchLabels": _APP}, "policyTypes": ["Ingress", "Egress"]},
        }
        try:
            await client.NetworkingV1Api(await self._client()).create_namespaced_network_policy(self._namespace, body)
        except ApiException as error:
            if error.status != 409:
                raise

    def _name(self, workspace: Workspace) -> str:
        # The name of a Job allows less than that of a folder.
        readable = re.sub(r"[^a-z0-9]+", "-", workspace.job_id.lower())[:30].strip("-")
        return f"sandbox-{readable}-{hashlib.sha256(f'{self._place}/{workspace.job_id}'.encode()).hexdigest()[:12]}"

    def _manifest(self, job: Job, uid: int, gid: int) -> dict[str, Any]:
        """Return the Job as the cluster's API wants it (batch/v1)."""
        limits, below = job.limits, f"{job.job_id}/volume"
        argv = list(job.argv)
        if job.stdin is not None:
            argv = ["/bin/sh", "-c", f'exec "$@" < {TEMPORARY}/stdin', "sh", *argv]
        places = (("work", WORK), ("home", HOME), ("tmp", TEMPORARY), ("shm", SHARED))
        resources = {"cpu": f"{int(limits.cores * 1000)}m", "memory": str(limits.memory)}
        container: dict[str, Any] = {
            "name": "program",
            "image": self._image,
            "command": argv,
            "env": [{"name": name, "value": value} for name, value in environment(job).items()],
            "workingDir": WORK,
            "resources": {"limits": resources, "requests": resources},
            "volumeMounts": [
                {"name": "job", "mountPath": inside, "subPath": f"{below}/{name}"} for name, inside in places
            ],
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "privileged": False,
                "readOnlyRootFilesystem": True,
            },
        }
        pod: dict[str, Any] = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": uid,
                "runAsGroup": gid,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [{"name": "job", "persistentVolumeClaim": {"claimName": self._claim}}],
        }
        if self._runtime_class:
            pod["runtimeClassName"] = self._runtime_class
        labels = {**_APP, _PLACE: self._place}
        return {
            "metadata": {"name": self._name(job.workspace), "labels": labels, "annotations": {_LABEL: job.job_id}},
            "spec": {
                "backoffLimit": 0,
                "activeDeadlineSeconds": int(limits.seconds) + int(_PATIENCE),  # should this server die
                "ttlSecondsAfterFinished": 600,
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        }


class _Running(Container):
    def __init__(self, api: client.ApiClient, namespace: str, body: dict[str, Any], job: Job) -> None:
        self._api, self._namespace, self._body, self._job = api, namespace, body, job
        self._name = str(body["metadata"]["name"])
        self._pod: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._began = 0.0

    async def start(self) -> None:
        try:
            await client.BatchV1Api(self._api).create_namespaced_job(self._namespace, cast(Any, self._body))
        except ApiException as error:
            raise SandboxFailed(f"The cluster did not make the Job: {_reason(error)}") from error
        try:
            async with asyncio.timeout(_PATIENCE):
                while (pod := await self._find()) is None or pod.status.phase in (None, "Pending"):  # noqa: ASYNC110
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise SandboxFailed("The cluster did not start a pod in time.") from None
        self._began = time.monotonic()
        self._pod.set_result(pod.metadata.name)

    async def output(self) -> AsyncIterator[tuple[Stream, bytes]]:
        name = await self._pod
        answer: Any = await client.CoreV1Api(self._api).read_namespaced_pod_log(
            name, self._namespace, follow=True, _preload_content=False
        )
        async for data in answer.content.iter_any():  # the cluster keeps one log for both streams
            yield "stdout", data

    async def wait(self) -> Gone:
        while True:
            pod = await self._find()
            if pod is None:
                raise SandboxFailed("The pod is gone before its end: somebody deleted it.")
            for one in pod.status.container_statuses or []:
                ended = one.state.terminated if one.state else None
                if ended is not None:
                    return Gone(int(ended.exit_code), ended.reason == "OOMKilled")
            if pod.status.phase == "Failed":
                raise SandboxFailed(f"The cluster ended the pod: {pod.status.reason or 'it gave no reason'}.")
            await asyncio.sleep(_POLL_SECONDS)

    async def watch(self, tally: Tally) -> Reason | None:
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            disk = Disk(most_entries=inodes(self._job.limits))
            await asyncio.to_thread(disk.add_folder, self._job.workspace.volume)
            if disk.over(self._job.limits.disk):
                return "disk"

    def reckon(self, tally: Tally) -> None:
        """What is reserved counts as used, because a cluster tells nobody else what a pod used."""
        limits, seconds = self._job.limits, time.monotonic() - self._began
        tally.cpu_seconds, tally.peak = seconds * limits.cores, limits.memory
        tally.byte_seconds = seconds * limits.memory

    async def remove(self) -> None:
        await _delete(self._api, self._namespace, self._name)

    async def _find(self) -> Any:
        found = await client.CoreV1Api(self._api).list_namespaced_pod(
            self._namespace, label_selector=f"job-name={self._name}"
        )
        return found.items[0] if found.items else None


async def _delete(api: client.ApiClient, namespace: str, name: str) -> None:
    """Delete a Job with its pods, and wait until none is left: files are only looked at when every process is dead."""
    jobs, pods = client.BatchV1Api(api), client.CoreV1Api(api)
    try:
        await jobs.delete_namespaced_job(name, namespace, propagation_policy="Foreground", grace_period_seconds=0)
    except ApiException as error:
        if error.status != 404:
            raise SandboxFailed(f"The cluster did not delete the Job: {_reason(error)}") from error
    try:
        async with asyncio.timeout(_PATIENCE):
            while (await pods.list_namespaced_pod(namespace, label_selector=f"job-name={name}")).items:  # noqa: ASYNC110
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        raise SandboxFailed("The cluster did not delete the pod in time.") from None


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error)

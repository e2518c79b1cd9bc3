"""Job scripts or Kubernetes resources that a deploy file would submit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from survey.cluster import tls as certificates
from survey.cluster.addresses import scheduler_address
from survey.cluster.dask_settings import applied, load_dask, wants_encryption
from survey.cluster.deploy import BatchSite, KubernetesSite, LocalSite
from survey.cluster.deploy_file import load_site


def preview(path: Path, workspace: str, tls: Path | None = None) -> dict[str, str]:
    """Job scripts or manifests that a deploy file would submit: their names and texts.

    Parameters
    ----------
    workspace : jobs write to its logs/jobs, unless the file names another folder
    tls : folder of certificates, in place of the file's
    """
    site = load_site(path)
    if isinstance(site, BatchSite):
        load_dask()
        from survey.cluster.job_scripts import job_class, job_scripts

        job_class(site.kind)  # brings the defaults of dask-jobqueue's settings
        folder = tls or site.tls
        with applied(folder is None and wants_encryption(), certificates.ROLES) as security:
            if folder is not None:
                security = certificates.security(folder, certificates.ROLES)
            encrypted = security if security.require_encryption else None
            return job_scripts(site, str(site.logs or f"{workspace}/logs/jobs"), encrypted)
    if isinstance(site, KubernetesSite):
        from survey.cluster.pods import manifests

        named = {f"{item['kind']} {item['metadata']['name']}": item for item in manifests(site)}
        return {name: _as_yaml(item) for name, item in named.items()}
    if isinstance(site, LocalSite):
        sizes = [f"{group.maximum} x {group.memory_gb:g} GB" for group in site.groups.values()]
        return {"workers": f"processes on this machine: {', '.join(sizes) or 'as many as cores and memory allow'}\n"}
    return {"address": f"nothing is submitted; the scheduler is at {scheduler_address(path, site)}\n"}


class _Dumper(yaml.SafeDumper):
    """Writes an object that occurs twice in full, not as an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _as_yaml(manifest: dict[str, Any]) -> str:
    text = yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120)
    return str(text)

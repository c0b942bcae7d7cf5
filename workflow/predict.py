"""Predict from hashes alone which results a stage would find in the cache; nothing is run, restored or changed."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow.changes import named_stages
from workflow.remote import transfer_run_cache

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

Found = dict[str, Any]  # path of an output -> its hash_info after a restore


class Forecast:
    """Predictions for stages, asked for in the order of the pipeline, each with the results of those before it.

    Args:
        repo: DVC's object for this folder.
        use_remote: whether DVC's remote is asked, too.
    """

    def __init__(self, repo: "Repo", use_remote: bool) -> None:
        self.repo = repo
        self.stages = named_stages(repo)
        self.hashes: Found = {}  # outputs as they will be
        for stage in self.stages.values():
            self.hashes |= {out.fs_path: out.hash_info for out in stage.outs if out.hash_info}
        self.unknown: set[str] = set()  # outputs of stages that run
        self.remote = self._reach_remote() if use_remote else None

    def runs(self, name: str) -> None:
        """Note that stage `name` runs: its results are not known."""
        self.unknown |= {out.fs_path for out in self.stages[name].outs}

    def found(self, name: str) -> str:
        """Return where the results of stage `name` are: `unchanged` (in place), `the cache`, `the remote`; else empty."""
        stage = self.stages[name]
        inputs = [self._input(dep) for dep in stage.deps]
        if None in inputs:
            return ""
        before = [(dep.hash_info, dep.meta) for dep in stage.deps]
        outputs = {out.fs_path: out.hash_info for out in stage.outs}
        locked = all(outputs.values()) and not stage.changed_stage() and [old for old, _ in before] == inputs
        if locked and not any(out.status() for out in stage.outs):
            return "unchanged"
        if not locked:
            from dvc.output import Meta

            try:
                for dep, hash_info in zip(stage.deps, inputs, strict=True):
                    dep.hash_info, dep.meta = hash_info, Meta()  # the old meta would repeat the old hash
                cached = self._newest_run(stage)
            finally:
                for dep, (hash_info, meta) in zip(stage.deps, before, strict=True):
                    dep.hash_info, dep.meta = hash_info, meta
            if cached is None:
                return ""
            outputs = {out.fs_path: out.hash_info for out in cached.outs}
        place = self._place(list(outputs.values()))
        if place:
            self.hashes |= outputs
        return place

    def _newest_run(self, stage: "PipelineStage") -> "PipelineStage | None":
        """The stage as the run cache remembers it, with the inputs that `stage` has at the moment."""
        from dvc.stage.cache import _get_cache_hash
        from dvc.stage.serialize import to_single_stage_lockfile

        runs = self.repo.stage_cache
        key = _get_cache_hash(to_single_stage_lockfile(stage), key=True)
        entries = sorted(Path(runs._get_cache_dir(key)).glob("*"), key=lambda path: path.stat().st_mtime)
        entry = runs._load_cache(key, entries[-1].name) if entries else None
        return runs._create_stage(entry, wdir=stage.wdir) if entry else None

    def _input(self, dep: "Output") -> Any:
        """The hash that a dependency will have; None if that cannot be known now."""
        path, separator = dep.fs_path, dep.fs.sep
        if any(overlaps(path, out, separator) for out in self.unknown):
            return None
        if path in self.hashes:
            return self.hashes[path]
        inside = {out: value for out, value in self.hashes.items() if out.startswith(path + separator)}
        try:
            if inside:
                return self._folder_hash(path, inside, separator)
            for out, value in self.hashes.items():
                if path.startswith(out + separator):
                    obj = self._tree(value).get_obj(
                        self.repo.cache.local, tuple(path[len(out) + 1 :].split(separator))
                    )
                    return obj.hash_info if obj else None
            return dep.get_hash()  # a file that no stage makes, or parameters
        except FileNotFoundError:
            return None

    def _folder_hash(self, path: str, outs: Found, separator: str) -> Any:
        """Hash of a folder that holds the outputs of several stages."""
        from dvc.output import Tree

        whole = Tree()
        for out, value in outs.items():
            prefix = tuple(out[len(path) + 1 :].split(separator))
            if value.isdir:
                for key, (meta, oid) in self._tree(value).as_dict().items():
                    whole.add((*prefix, *key), meta, oid)
            else:
                whole.add(prefix, None, value)
        whole.digest()
        return whole.hash_info

    def _tree(self, hash_info: Any) -> Any:
        """The list of a folder's files, from the cache or the remote; FileNotFoundError if neither has it."""
        from dvc.output import Tree

        try:
            return Tree.load(self.repo.cache.local, hash_info)
        except FileNotFoundError:
            if self.remote is None:
                raise
            return Tree.load(self.remote, hash_info)

    def _place(self, hashes: list[Any]) -> str:
        """Where all these objects are; for a folder, where its list of files is."""
        local = self.repo.cache.local
        lacking = [value for value in hashes if not local.exists(value.value)]
        if not lacking and not self._lacks_files(hashes):
            return "the cache"
        there = self.remote is not None and all(
            self.remote.exists(value.value) for value in lacking or hashes
        )
        return "the remote" if there else ""

    def _lacks_files(self, hashes: list[Any]) -> bool:
        trees = [self._tree(value) for value in hashes if value.isdir]
        local = self.repo.cache.local
        return any(not local.exists(oid.value) for tree in trees for _, (_, oid) in tree.as_dict().items())

    def _reach_remote(self) -> Any:
        """The remote's store of files, its record of runs copied here; None without a remote that answers."""
        if not self.repo.config["core"].get("remote"):
            return None
        try:
            transfer_run_cache(self.repo)
            return self.repo.cloud.get_remote_odb(None, "status")
        except Exception as error:
            print(f"DVC's remote cannot be asked: {error}")
            return None


def overlaps(first: str, second: str, separator: str) -> bool:
    """Return whether two paths are equal or one lies in the other."""
    return first == second or first.startswith(second + separator) or second.startswith(first + separator)

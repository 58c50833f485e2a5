"""Run → a repository of the Hub: in one commit, or not at all.

It reads the run folder only, so that publishing tomorrow equals publishing today.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hfadapt.errors import HfadaptError, Problem, RunError
from hfadapt.folder import Run, open_run
from hfadapt.publishing._uploads import Upload, differing, gather, refuse_secrets, stale
from hfadapt.push import Push
from hfadapt.push.hub import PAUSES, Hub, HubError, connect, failure, failures, patiently, refuse_public

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

RECORD = "published.json"
"""What was published where, a list in the run folder."""
_RACES = 2
"""How often a commit is prepared anew because somebody else was faster."""


@dataclass(frozen=True)
class Published:
    """What was published, or would be."""

    repo: str
    """`owner/name`."""
    url: str
    """The page of the repository, or of the pull request; empty where nothing was sent."""
    commit: str
    """The commit that holds the files."""
    private: bool
    changed: bool
    """Whether a commit was made; False where the repository holds all of it already."""
    files: dict[str, int]
    """Bytes of each file, by its place in the repository."""
    removed: tuple[str, ...] = ()
    """Files of an earlier model that were taken away."""
    left: tuple[str, ...] = ()
    """Files of the run beside those published that never leave."""
    branch: str | None = None
    tag: str | None = None
    card: str = ""
    """The model card as published."""


def publish(
    run: Run | str | Path,
    to: str,
    *,
    private: bool = True,
    branch: str | None = None,
    pull_request: bool = False,
    tag: str | None = None,
    dry_run: bool = False,
) -> Published:
    """Put a finished run's model, card and recipe into a repository of the Hub, which is made where it is missing.

    The whole is one commit; what the repository holds already is not sent again, so repeating it does no harm.

    to: `owner/name`, or a name below the token's user; private: whether only its owners may see it, which an
    existing repository must agree to; branch: made where it is missing; tag: for the commit; dry_run: look at what
    would be sent, and ask nobody.

    Raises:
        HubError: the Hub, or the way to it, refused; the run is as it was.
        HfadaptError: the run is not finished, what loads is not what it trained, or a file holds a secret.
    """
    run = run if isinstance(run, Run) else open_run(run)
    if not run.done:
        raise RunError(f"The run {run.path} is not finished. Go on with it: hfadapt run --resume {run.path}.")
    _refuse_unsound(run)
    goal = _goal(repo=to, private=private, branch=branch, tag=tag, pull_request=pull_request)
    if dry_run:
        uploads, left = gather(run, to)
        refuse_secrets(uploads)
        return _outcome(uploads, left, goal, repo=to, url="", commit="", private=private, changed=False)
    with _hushed():
        return _send(run, goal)


def _refuse_unsound(run: Run) -> None:
    """Stop where the check at the end of the run found something that is still so."""
    from hfadapt.contract import check

    log = run.path / "log.jsonl"
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    last = next((event for event in reversed(events) if event.get("event") == "checked"), {"sound": True})
    if not last["sound"] and (problems := check(run).problems):
        raise HfadaptError(*problems)


def _goal(**values: Any) -> Push:
    from pydantic import ValidationError

    try:
        return Push(**values)
    except ValidationError as error:
        raise HfadaptError(*(Problem(detail["msg"]) for detail in error.errors())) from None


@contextmanager
def _hushed() -> Iterator[None]:
    """Without upstream's log lines, which name signed links, and without its bars where nobody watches."""
    from huggingface_hub import utils

    logger, bars = logging.getLogger("huggingface_hub"), cast(Any, utils)
    level, off = logger.level, bars.are_progress_bars_disabled()
    logger.setLevel(logging.CRITICAL)
    if not sys.stderr.isatty():
        bars.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if not off:
            bars.enable_progress_bars()


def _send(run: Run, goal: Push) -> Published:
    hub = connect()
    place = hub.place(goal)
    uploads, left = gather(run, place.repo)
    refuse_secrets(uploads)
    if place.info is None:
        _create(hub, place.repo, goal)
    tags = hub.tags(place.repo) if goal.tag else {}
    if goal.tag in tags and differing(uploads, _state(hub, place.repo, tags[goal.tag])):
        raise HubError(f"The tag '{goal.tag}' of '{place.repo}' holds something else.", "Choose another tag.")
    if goal.branch:
        making = f"making the branch '{goal.branch}'"
        patiently(lambda: hub.api.create_branch(place.repo, branch=goal.branch or "", exist_ok=True), making)
    there = _state(hub, place.repo, goal.branch or "main")
    # Nobody may have made it public in the meantime, and not every creation makes what it was asked for.
    refuse_public(there, goal)
    commit, url, removed, changed = _Delivery(hub, place.repo, goal, uploads).bring(there)
    if lacking := differing(uploads, _state(hub, place.repo, commit)):
        hint = "Does its .gitignore leave them out?"
        raise HubError(f"'{place.repo}' lacks {', '.join(u.path for u in lacking)} after the commit.", hint)
    if goal.tag and goal.tag not in tags:
        tagging = f"tagging the commit '{goal.tag}'"
        patiently(lambda: hub.api.create_tag(place.repo, tag=goal.tag or "", revision=commit, exist_ok=True), tagging)
    done = _outcome(
        *(uploads, left, goal),
        repo=place.repo,
        url=url,
        commit=commit,
        private=bool(there.private),
        changed=changed,
        removed=tuple(removed),
    )
    _record(run, done)
    return done


def _create(hub: Hub, repo: str, goal: Push) -> None:
    """Make the repository; one that came into being in the meantime is no fault, an answer may have been lost."""
    making = f"making '{repo}'"
    patiently(lambda: hub.api.create_repo(repo, private=goal.private, exist_ok=True), making)


def _state(hub: Hub, repo: str, revision: str) -> ModelInfo:
    info = hub.info(repo, revision)
    if info is None:
        raise HubError(f"'{repo}' has no '{revision}', or the token may not see it.", again=True)
    return info


def _outcome(uploads: Sequence[Upload], left: Sequence[str], goal: Push, **known: Any) -> Published:
    files = {upload.path: upload.size for upload in sorted(uploads, key=lambda upload: upload.path)}
    card = next((upload.text() for upload in uploads if upload.path == "README.md"), "")
    return Published(files=files, left=tuple(left), branch=goal.branch, tag=goal.tag, card=card, **known)


def _record(run: Run, done: Published) -> None:
    known = [] if not (path := run.path / RECORD).exists() else json.loads(path.read_text(encoding="utf-8"))
    said = {key: value for key, value in asdict(done).items() if key not in ("card", "left", "changed", "removed")}
    if said not in known:
        run.write(RECORD, json.dumps([*known, said], indent=2) + "\n")


class _Overtaken(HubError):
    """Somebody else has committed since the branch was read."""


class _Delivery:
    """The way of some files into one commit of one repository."""

    def __init__(self, hub: Hub, repo: str, goal: Push, uploads: Sequence[Upload]):
        self.hub, self.repo, self.goal, self.uploads = hub, repo, goal, uploads
        self.ref = goal.branch or "main"
        from hfadapt import __version__

        self.title = f"Model, card and recipe by hfadapt {__version__}"

    def bring(self, there: ModelInfo) -> tuple[str, str, list[str], bool]:
        """The commit that holds the files, its page, what it took away, and whether it is a new one.

        there: the branch as it is.

        Raises:
            HubError: it failed for good, or somebody else was faster again and again.
        """
        for left in reversed(range(_RACES)):
            old = stale(self.uploads, there)
            if found := self._present(there):
                return *found, [], False
            try:
                return *self._commit(there, old), old, True
            except _Overtaken:
                if not left:
                    raise
            there = _state(self.hub, self.repo, self.ref)
        raise AssertionError

    def _present(self, there: ModelInfo | None = None) -> tuple[str, str] | None:
        """The commit that holds all of it already, and its page: on the branch, or in a pull request of ours."""
        there = there or _state(self.hub, self.repo, self.ref)
        if self._whole(there):
            return str(there.sha), self._page()
        if self.goal.pull_request:
            for number, page in self._pull_requests():
                pulled = self.hub.info(self.repo, f"refs/pr/{number}")
                if pulled and self._whole(pulled):
                    return str(pulled.sha), page
        return None

    def _whole(self, there: ModelInfo) -> bool:
        return not differing(self.uploads, there) and not stale(self.uploads, there)

    def _page(self) -> str:
        return f"{self.hub.api.endpoint}/{self.repo}"

    def _pull_requests(self) -> list[tuple[int, str]]:
        """The number and page of each open pull request of the user that bears our title."""

        def ask() -> list[tuple[int, str]]:
            found = self.hub.api.get_repo_discussions(
                self.repo, author=self.hub.user, discussion_type="pull_request", discussion_status="open"
            )
            return [(one.num, one.url) for one in found if one.title == self.title]

        return patiently(ask, f"reading the pull requests of '{self.repo}'")

    def _commit(self, there: ModelInfo, old: Sequence[str]) -> tuple[str, str]:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        api, pull = self.hub.api, self.goal.pull_request
        added = [CommitOperationAdd(upload.path, upload.source) for upload in differing(self.uploads, there)]

        def upload() -> None:
            # Weights first: the commit below can then be repeated alone.
            api.preupload_lfs_files(self.repo, added, revision=self.ref, create_pr=pull, free_memory=False)

        def commit() -> tuple[str, str]:
            made = api.create_commit(
                self.repo,
                [*added, *(CommitOperationDelete(path) for path in old)],
                commit_message=self.title,
                revision=self.ref,
                create_pr=pull,
                parent_commit=there.sha,
            )
            return made.oid, made.pr_url or self._page()

        patiently(upload, "uploading the files")
        for pause in (*PAUSES, None):
            try:
                return commit()
            except failures() as error:
                found = failure(error)
            # The answer may have been lost, or unreadable, and not the commit.
            refused = 400 <= found.status < 500 and not found.passes
            if not refused and (present := self._present()):
                return present
            if found.status == 412 and "/commit/" in found.asked:
                raise _Overtaken(
                    f"The commit failed: {found.says}.", "Somebody else commits there at the same time.", again=True
                )
            if pause is None or not found.repeats:
                raise found.error("the commit")
            time.sleep(max(pause, found.wait))
        raise AssertionError

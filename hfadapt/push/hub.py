"""The Hub, asked patiently: what its answers mean, and whether a token may write.

huggingface_hub repeats some requests by itself and others never; problems come as half a dozen kinds of exceptions,
depending on the request and on how weights travel. Here they become one error with one sentence.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from hfadapt.errors import HfadaptError, Problem, one_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo

    from hfadapt.push import Push

T = TypeVar("T")

PAUSES = (1.0, 2.0, 4.0)
"""Seconds before a request is made again."""
_LONGEST = 300.0
"""A longer wait, in seconds, is left to the user."""
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""The answers that may be others later; those that huggingface_hub repeats, and 425 Too Early."""
_THEIRS = ("/preupload/", ".git/info/lfs/")
"""Requests that huggingface_hub itself has already repeated for long when they fail."""
_HINTS = {
    401: "Log in anew with `hf auth login`, or set HF_TOKEN.",
    403: "Use a token with write access: https://huggingface.co/settings/tokens.",
    404: "Check its name, and whether the token may see it.",
    413: "It is more than the Hub takes.",
    429: "It wants fewer requests.",
}


class HubError(HfadaptError):
    """The Hub, or the way to it, does not do what was asked."""

    def __init__(self, says: str, hint: str = "", *, again: bool = False, status: int = 0):
        super().__init__(Problem(says, hint=hint))
        self.again = again
        """Whether the same may succeed later."""
        self.status = status
        """The HTTP status of the answer; 0 where there was none."""


@dataclass(frozen=True)
class Failure:
    """What an exception of the client means."""

    says: str
    status: int = 0
    passes: bool = False
    """Whether it may be over later."""
    repeats: bool = False
    """Whether it is for us to try again."""
    wait: float = 0.0
    """Seconds that the Hub asks to wait."""
    asked: str = ""
    """The address that the request went to, where it is known."""

    def error(self, doing: str) -> HubError:
        """The error for the user; doing: what was asked for, such as `reading me/name`."""
        hint = _HINTS.get(self.status, "")
        if self.wait > _LONGEST:
            hint = f"It asks to wait {self.wait:,.0f} seconds."
        return HubError(
            f"{doing[0].upper()}{doing[1:]} failed: {self.says}.", hint, again=self.passes, status=self.status
        )


def failures() -> tuple[type[Exception], ...]:
    """The exceptions of huggingface_hub, its HTTP client and hf_xet around a request."""
    import httpx2
    from huggingface_hub.errors import OIDCError

    # HfHubHTTPError, OfflineModeIsEnabled and hf_xet's ConnectionError are OSErrors.
    return (OSError, httpx2.HTTPError, OIDCError, RuntimeError, ValueError, KeyError)


def failure(error: BaseException) -> Failure:
    """What an exception around a request means."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, RuntimeError) and error.__cause__:
        # Classic uploads wrap what went wrong, having repeated it.
        inner = failure(error.__cause__)
        return Failure(inner.says, inner.status, inner.passes)
    if isinstance(error, OfflineModeIsEnabled):
        return Failure("HF_HUB_OFFLINE is set, so nothing goes to the Hub")
    if isinstance(error, HfHubHTTPError):
        status, answer = error.response.status_code, error.server_message
        asked = str(error.response.url)
        theirs = any(part in asked for part in _THEIRS)
        says = f"the Hub answered {status}" + (f", {scrubbed(answer)}" if answer else "")
        passes, wait = status in _PASSING, _seconds(error.response.headers.get("Retry-After"))
        return Failure(says, status, passes, passes and not theirs and wait <= _LONGEST, wait, asked)
    if isinstance(error, httpx2.HTTPError):
        says = f"the connection broke ({scrubbed(str(error)) or type(error).__name__})"
        return Failure(says, 0, True, not any(part in _asked(error) for part in _THEIRS))
    if isinstance(error, json.JSONDecodeError | KeyError):
        return Failure("the answer is not the Hub's", 0, True, True)
    text = scrubbed(str(error)) or type(error).__name__
    if isinstance(error, ConnectionError):
        # hf_xet tells the status in its text only, and has repeated what may pass.
        told = re.search(r"\((?:status )?([45]\d\d)\b", str(error))
        status = int(told[1]) if told else 0
        return Failure(text, status, not status or status in _PASSING)
    return Failure(text)


def _asked(error: Any) -> str:
    """The address of the request that an error belongs to, where it knows."""
    try:
        return str(error.request.url)
    except RuntimeError:
        return ""


def _seconds(text: str | None) -> float:
    return float(text) if text and text.strip().isdigit() else 0.0


def scrubbed(text: str) -> str:
    """A text of others on one line, shortened, without tokens and without what signs a link."""
    text = re.sub(r"(https?://)[^/\s@]+@", r"\1", one_line(text))
    text = re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\")]+", r"\1", text)
    text = re.sub(r"\b(hf|api_org)_\w{6,}", r"\1_…", text)
    text = re.sub(r"(?i)\b(bearer)\s+\S+", r"\1 …", text)
    return (text if len(text) <= 300 else f"{text[:300]}…").rstrip(". ")


def patiently(call: Callable[[], T], doing: str) -> T:
    """What a call gives; made again a few times where its failure may pass.

    Raises:
        HubError: it failed for good.
    """
    for pause in (*PAUSES, None):
        try:
            return call()
        except failures() as error:
            found = failure(error)
            if pause is None or not found.repeats:
                # The cause could name what the sentence leaves out.
                raise found.error(doing) from None
            time.sleep(max(pause, found.wait))
    raise AssertionError


@dataclass(frozen=True)
class Place:
    """A repository that may be written to; `info` is None where it does not exist yet."""

    repo: str
    info: ModelInfo | None


@dataclass(frozen=True)
class Hub:
    """The Hub as the holder of a token sees it."""

    api: HfApi = field(repr=False)
    me: dict[str, Any] = field(repr=False)
    """What `whoami` says."""

    @property
    def user(self) -> str:
        """The name of the token's user."""
        return str(self.me["name"])

    @property
    def _token(self) -> dict[str, Any]:
        return dict(self.me.get("auth", {}).get("accessToken") or {})

    def place(self, push: Push) -> Place:
        """The repository that a push names, once nothing stands in its way.

        Raises:
            HubError: the token may not write there, or it is public and should not be.
        """
        repo = push.repo if "/" in push.repo else f"{self.user}/{push.repo}"
        if self._token.get("role") == "read":
            says = f"The token of '{self.user}' only reads."
            raise HubError(says, _HINTS[403])
        info = self.info(repo)
        if info is None:
            self._may_create(repo, push)
            return Place(repo, None)
        refuse_public(info, push)
        if not push.pull_request:
            patiently(lambda: self.api.auth_check(repo, write=True), f"asking for write access to '{repo}'")
        return Place(repo, info)

    def info(self, repo: str, revision: str | None = None) -> ModelInfo | None:
        """What the Hub knows of a repository and its files; None where there is none, or none that the token sees."""
        try:
            return patiently(
                lambda: self.api.model_info(repo, revision=revision, files_metadata=True), f"reading '{repo}'"
            )
        except HubError as error:
            if error.status == 404:
                return None
            raise

    def tags(self, repo: str) -> dict[str, str]:
        """The commit of each tag."""
        refs = patiently(lambda: self.api.list_repo_refs(repo), f"reading the tags of '{repo}'")
        return {ref.name: ref.target_commit for ref in refs.tags}

    def _may_create(self, repo: str, push: Push) -> None:
        owner, _, _ = repo.partition("/")
        if push.pull_request:
            says = f"There is no '{repo}' to open a pull request in."
            raise HubError(says, "Publish without a pull request first.")
        orgs = {org["name"]: org.get("roleInOrg", "") for org in self.me.get("orgs", ())}
        if owner != self.user and orgs.get(owner, "read") == "read":
            says = f"There is no '{repo}', and '{self.user}', whose token this is, may not make it below '{owner}'."
            raise HubError(says, "Use a token of somebody who writes there.")
        # https://huggingface.co/docs/hub/security-tokens: a fine-grained token writes where it was told.
        scoped = (self._token.get("fineGrained") or {}).get("scoped")
        if self._token.get("role") == "fineGrained" and scoped is not None:
            named = {scope["entity"].get("name") for scope in scoped if "repo.write" in scope.get("permissions", ())}
            if owner not in named:
                says = f"There is no '{repo}', and the fine-grained token may not make repositories of '{owner}'."
                raise HubError(says, _HINTS[403])


def refuse_public(info: ModelInfo, push: Push) -> None:
    """Stop where a repository is public and a private one was asked for.

    Raises:
        HubError: it is.
    """
    if push.private and not info.private:
        says = f"'{info.id}' is public, and a private repository was asked for; nothing was sent."
        hint = "Make it private on its settings page, or agree: `--public`, in a recipe `push.private: false`."
        raise HubError(says, hint)


def connect() -> Hub:
    """The Hub, as the token in HF_TOKEN or from `hf auth login` opens it.

    Raises:
        HubError: there is none, it is not accepted, or the Hub is out of reach.
    """
    from huggingface_hub import HfApi, get_token

    token = patiently(get_token, "looking for a token")
    if token is None:
        raise HubError("There is no token for the Hub.", _HINTS[401].replace("anew ", ""))
    api = HfApi(token=token)
    return Hub(api, patiently(api.whoami, "asking whose token it is"))


def check(push: Push) -> None:
    """Find out, before anything is computed, whether a run may be pushed when it is done.

    Raises:
        HfadaptError: it may not, or nobody can tell.
    """
    try:
        hub = connect()
        place = hub.place(push)
        if push.tag and place.info and push.tag in hub.tags(place.repo):
            raise HubError(f"'{place.repo}' has a tag '{push.tag}' already.", "Choose another.")
    except HubError as error:
        raise HfadaptError(*(replace(problem, field="push") for problem in error.problems)) from None

"""The service's life: starting, ready, reloading, draining, and whether its models still answer."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from app.batcher import Limits
from app.bundle import BundleError
from app.canary import CanaryError
from app.cores import release_freed, resident_bytes, usable_cores
from app.errors import DrainingError, OverloadedError, ReloadError, UnavailableError
from app.metrics import MODELS, Metrics
from app.registry import Catalogue, describe, load_catalogue
from app.settings import PREFIX, Settings
from app.shadow import Shadow

logger = logging.getLogger(__name__)

PULSE_SECONDS = 1.0
TICK_SECONDS = 0.05  # how often the event loop's lateness is taken
ENOUGH_ROWS = 500  # for drift to be more than chance; the alerts wait for as many


Load = Callable[[], Awaitable[None]]


class Crew(Protocol):
    """The processes that serve together: all of them take a new set of bundles, or none does."""

    def attach(self, load: Load) -> None:
        """Be ready to call `load` when the others load; called once, on the event loop."""

    async def agree(self, models: str, refusal: str | None) -> str | None:
        """Tell the others what this process loaded (its digest) or why it could not; learn the first refusal of any."""

    async def reload(self, load: Load) -> None:
        """Have every process load; raises what this one's `load` raises."""


class Alone:
    """The crew of a single process."""

    def attach(self, load: Load) -> None:
        """Nobody else can ask for it."""

    async def agree(self, _models: str, refusal: str | None) -> str | None:
        """Decide alone."""
        return refusal

    async def reload(self, load: Load) -> None:
        """Load."""
        await load()


class Service:
    """What the routes work with. It belongs to one event loop.

    Attributes:
        loaded: Set once the first loading has ended, well or badly.
        failure: Why the first loading ended badly.
        in_flight: Requests that were let in and are not answered.
        lag: How late the event loop runs what is due, in seconds.
        shadow: Compares a sample of the student's answers with the teacher's.
    """

    def __init__(self, settings: Settings, metrics: Metrics, crew: Crew) -> None:
        """Nothing is loaded yet."""
        self.settings = settings
        self.metrics = metrics
        self.loaded = asyncio.Event()
        self.failure: str | None = None
        self.in_flight = 0
        self.lag = 0.0
        self._cpu_seconds = 0.0  # that were reported
        self._crew = crew
        self._catalogue: Catalogue | None = None
        self._background: list[asyncio.Task[None]] = []
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._loading = asyncio.Lock()
        cores = usable_cores()
        self._threads = settings.threads or max(1, cores // settings.workers)
        self.shadow = Shadow(settings.shadow_rate, settings.shadow_cpu_share, cores, metrics)
        self._limits = Limits(settings.queue_tokens, settings.batch_tokens, settings.batch_rows)

    def start(self) -> None:
        """Begin to load, in the background."""
        self._crew.attach(self._load)
        work = (self._start(), self._pulse(), self._measure_lag())
        self._background = [asyncio.create_task(each) for each in work]

    async def reload(self) -> list[str]:
        """Load the models folder again, and name the bundles that serve now. A first loading is waited for.

        Raises:
            ReloadError: a bundle cannot be served; what was loaded before stays, in every process.
            UnavailableError: the first loading failed, and the process ends.
        """
        await self.loaded.wait()  # the crew has no round for one that does not serve yet
        if self.failure:
            raise UnavailableError(self.failure)
        try:
            await self._crew.reload(self._load)
        except BundleError as error:
            raise ReloadError(f"{error}; what was loaded before stays") from error
        return self._names()

    async def _start(self) -> None:
        try:
            await self._load()
        except BundleError as error:
            self.failure = str(error)
        except Exception as error:  # a bug, but the operator must still see the service end, and why
            logger.exception("loading failed; this is a bug")
            self.failure = f"loading failed: {type(error).__name__}"
        self.loaded.set()

    async def _load(self) -> None:
        """Load beside what serves already, and swap if the whole crew could. Requests keep what they began with."""
        async with self._loading:
            catalogue, refusal = None, None
            try:
                catalogue = await asyncio.to_thread(
                    load_catalogue,
                    self.settings.models_dir,
                    self._limits,
                    self._threads,
                    self.metrics,
                    self.settings.student,
                )
            except BundleError as error:
                refusal = str(error)
                self.metrics.loads.labels("canary_failed" if isinstance(error, CanaryError) else "refused").inc()
            except Exception as error:  # a bug, but without this vote the crew would wait for ever
                logger.exception("loading failed; this is a bug")
                refusal = f"loading failed: {type(error).__name__}"
                self.metrics.loads.labels("refused").inc()
            refusal = await self._crew.agree(catalogue.digest if catalogue else "", refusal)
            if catalogue is None or refusal is not None:
                if catalogue:  # another process refused
                    catalogue.retire()
                    self.metrics.loads.labels("refused").inc()
                logger.error("not loaded: %s", refusal)
                raise BundleError(refusal)
            old, self._catalogue = self._catalogue, catalogue
            if old:
                self._report_drift(old, over=True)
                old.retire()
            del old
            self._show(catalogue)
            self.shadow.follow(catalogue)
        await asyncio.to_thread(release_freed)
        logger.info("serving %s with %d threads per model", ", ".join(self._names()), self._threads)

    def _show(self, catalogue: Catalogue) -> None:
        """Create every series that what is loaded makes possible."""
        self.metrics.loads.labels("loaded").inc()
        self.metrics.show_models(map(describe, catalogue.bundles))
        for task in catalogue.tasks.values():
            if task.manifest.labels:
                self.metrics.show_task(task.manifest.name)
        for model, name, drift in catalogue.drifts:
            self.metrics.show_baseline(model, name, drift.baseline)
        self._report_drift(catalogue)

    def _report_drift(self, catalogue: Catalogue, *, over: bool = False) -> None:
        """Set the drift of each bundle; once its time is over, to nothing.

        Of several processes the one that is furthest off speaks for all, so one that saw few rows is silent.
        """
        for model, task, drift in catalogue.drifts:
            figures = drift.look()
            nothing = dict.fromkeys(figures, 0.0)
            if over:
                figures = nothing
            elif self.settings.workers > 1 and figures["rows"] < ENOUGH_ROWS / self.settings.workers:
                figures = nothing | {"rows": figures["rows"]}
            self.metrics.show_drift(model, task, figures)

    def _names(self) -> list[str]:
        return [bundle.folder.name for bundle in self.catalogue.bundles]

    @property
    def catalogue(self) -> Catalogue:
        """What is loaded; raises UnavailableError while nothing is."""
        if self._catalogue is None:
            raise UnavailableError(self.failure or "the models are still being loaded and checked")
        return self._catalogue

    def shown(self) -> Catalogue | None:
        """What is loaded, if anything is yet: for the documentation."""
        return self._catalogue

    @contextmanager
    def admit(self) -> Iterator[Catalogue]:
        """Let a request in that works with models, and keep them open for it.

        Raises:
            UnavailableError: the service is starting.
            DrainingError: it is shutting down.
            OverloadedError: requests come faster than they can even be read, whatever the models' queues hold.
        """
        if self._draining:
            raise DrainingError
        if self.lag > self.settings.lag_seconds:
            limit = f"{PREFIX}LAG_SECONDS is {self.settings.lag_seconds:g}"
            raise OverloadedError(f"the service is {self.lag:.2f} s late; {limit}", retry_after=1)
        with self.catalogue.lease() as catalogue:
            self.in_flight += 1
            self._idle.clear()
            try:
                yield catalogue
            finally:
                self.in_flight -= 1
                if not self.in_flight:
                    self._idle.set()

    def check_ready(self) -> None:
        """Raises UnavailableError, with the reason, unless requests are welcome."""
        if self._draining:
            raise DrainingError
        self._check_running("UNREADY_AFTER_SECONDS", self.settings.unready_after_seconds)

    def check_alive(self) -> None:
        """Raises UnavailableError when only a restart helps."""
        if self.failure:
            raise UnavailableError(self.failure)
        if self._catalogue:
            self._check_running("DEAD_AFTER_SECONDS", self.settings.dead_after_seconds)

    async def drain(self) -> bool:
        """Turn not ready, refuse new requests, and wait for those that were let in; tells whether all were answered."""
        self._draining = True
        try:
            async with asyncio.timeout(self.settings.drain_limit_seconds):
                await asyncio.gather(self._idle.wait(), asyncio.sleep(self.settings.drain_seconds))
        except TimeoutError:
            logger.error("%d requests were still unanswered and are dropped", self.in_flight)
            return False
        return True

    async def _pulse(self) -> None:
        """Report each second."""
        while True:
            self.report()
            await asyncio.sleep(PULSE_SECONDS)

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            self.lag = loop.time() - due

    def report(self) -> None:
        """Set what no event reports: the queues' ages, resources, and drift."""
        self._report_queues()
        self._report_resources()
        if self._catalogue:
            self._report_drift(self._catalogue)

    def _report_resources(self) -> None:
        used = time.process_time()
        self.metrics.cpu.inc(used - self._cpu_seconds)
        self._cpu_seconds = used
        self.metrics.resident.set(resident_bytes())
        self.metrics.lag.set(self.lag)

    def _report_queues(self) -> None:
        engines = self._catalogue.engines if self._catalogue else []
        for model in MODELS:
            ages = (engine.queue_age for engine in engines if engine.manifest.role == model)
            self.metrics.queue_age.labels(model).set(max(ages, default=0.0))

    def close(self) -> None:
        """End the background work and close the engines."""
        for task in self._background:
            task.cancel()
        self.shadow.close()
        if self._catalogue:
            self._catalogue.retire()

    def _check_running(self, setting: str, limit: float) -> None:
        for engine in self.catalogue.engines:
            if (running := engine.longest_run) > limit:  # looked at once: the batch may end meanwhile
                raise UnavailableError(
                    f"a batch of {engine.manifest.name} has been running for {running:.1f} s; "
                    f"{PREFIX}{setting} is {limit:g}"
                )

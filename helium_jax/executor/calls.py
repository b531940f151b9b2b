"""The calls of a run on their way: prepared, ordered by the policy, let in, tried again.

A call is queued when its inputs are there, encoded while few others are, handed to the dispatcher,
and goes to the engine when the dispatcher releases it and the budget allows. Equal deterministic
calls are one flight with several places waiting for it.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Mapping

from helium_jax.executor.answer_news import AnswerNews
from helium_jax.executor.budget import Budget, Spent
from helium_jax.executor.events import (
    Call,
    CallFailed,
    CallFinished,
    CallProgressed,
    CallServed,
    CallSource,
    CallTimedOut,
    CancelCall,
    EncodeCall,
    Foresee,
    Instruction,
    OpProgress,
    OpStarted,
    Report,
    StartTimer,
    StopTimer,
    SubmitCall,
)
from helium_jax.executor.flight import Flight, Given, Landing
from helium_jax.executor.frames import Frame, Place
from helium_jax.executor.prompts import Prompt, prompt_key, render_prompt, step_at
from helium_jax.executor.tally import Tally
from helium_jax.executor.values import TOO_LARGE, Answer, Value, text_of
from helium_jax.physical import Generate, PhysicalPlan
from helium_jax.schedule.dispatch import Dispatcher, ReadyCall
from helium_jax.types import Usage

MAX_ENCODING = 64  # prompts being encoded at a time
MAX_REMEMBERED = 256  # submitted calls whose consumers have not been looked at
MAX_RERUNS = 8  # of a call whose engines died


_CallEvent = CallProgressed | CallFinished | CallServed | CallFailed | CallTimedOut


class Calls:
    """Owns the calls of one run; part of a `RunState`, to whose instructions it adds."""

    def __init__(
        self,
        plan: PhysicalPlan,
        *,
        dispatcher: Dispatcher,
        tallies: Mapping[str, Tally],
        look: Callable[[Frame, str], Value],
        out: Callable[[Instruction], None],
        max_in_flight: int,
        single_flight: bool,
        encode_ahead: int,
        tells_deltas: bool,
        tells_answers: bool,
        spent: Spent,
    ) -> None:
        """
        Args:
            plan: whose calls.
            dispatcher: orders them.
            tallies: by operator.
            look: a name's value, seen from a frame.
            out: takes instructions.
            max_in_flight: most calls at the engine at once.
            single_flight: make equal deterministic calls once.
            encode_ahead: encoded calls that may wait for the dispatcher, as long as that does not
                keep it from releasing any.
            tells_deltas: report answers as they grow.
            tells_answers: report what every answer was besides its text.
            spent: by earlier attempts, of the plan's limits.
        """
        self._dispatcher = dispatcher
        self._tallies = tallies
        self._look = look
        self._out = out
        self._max_in_flight = max_in_flight
        self._single_flight = single_flight
        self._encode_ahead = encode_ahead
        self._news = AnswerNews(out, tells_deltas=tells_deltas, tells_answers=tells_answers)
        self._keeps_answers = bool(plan.remembered)
        self._place = {op.name: place for place, op in enumerate(plan.calls)}
        self._budget = Budget(plan.limits, spent)
        self._ids = itertools.count()
        self._queue: list[tuple[int, int, int, int]] = []  # priority, row, operator, call id
        self._queued: dict[int, Place] = {}
        self._flights: dict[int, Flight] = {}
        self._leaders: dict[bytes, int] = {}  # key of a call on its way -> its id
        self._answers: dict[bytes, Given] = {}  # of calls that are over
        self._held: list[int] = []  # released calls that wait for others' unused tokens
        self._submitted: deque[tuple[Place, int | None]] = deque(maxlen=MAX_REMEMBERED)
        self._num_encoding = 0
        self._num_ready = 0
        self._num_submitted = 0  # or held

    @property
    def is_hungry(self) -> bool:
        """Whether more calls would be prepared if there were any."""
        num_prepared = len(self._queued) + self._num_encoding + self._num_ready
        return num_prepared < self._encode_ahead or self._is_starving

    @property
    def has_idle_room(self) -> bool:
        """Whether the engine has places that nothing else is going to take."""
        is_idle = not self._queued and not self._num_encoding and not self._num_ready
        return is_idle and 2 * self._num_submitted <= self._max_in_flight

    def take_submitted(self) -> list[tuple[Place, int | None]]:
        """The latest calls that went to the engine, and to which worker; each is given once."""
        submitted = [*self._submitted]
        self._submitted.clear()
        return submitted

    @property
    def _is_starving(self) -> bool:
        """The engine has room, and nothing that is being prepared may fill it."""
        is_idle = not self._queued and not self._num_encoding
        return is_idle and self._num_submitted < self._max_in_flight

    def expect(self, frame: Frame, operator: Generate) -> None:
        """Takes a call whose inputs are there."""
        call_id = next(self._ids)
        frame.running[operator.name] = call_id
        self._queued[call_id] = (frame, operator.name)
        self._dispatcher.coming(call_id, frame.row)
        place = self._place[operator.name]
        heapq.heappush(self._queue, (operator.settings.priority, frame.row, place, call_id))

    def leave(self, place: Place, call_id: int) -> None:
        """A place does not want its call any more; without others that do, the call ends."""
        if self._queued.pop(call_id, None) is not None:
            self._dispatcher.finished(call_id, 0)
            return
        flight = self._flights.get(call_id)
        if flight is not None:
            flight.waiting.remove(place)
            if not flight.waiting:
                self._take(flight)
                self._budget.finish(call_id, flight.num_tokens)
                self._out(CancelCall(call_id=call_id))

    def advance(self) -> list[Landing]:
        """Lets calls in and prepares more, as far as there is room."""
        landings: list[Landing] = []
        self._release(landings)
        has_joined = False
        while self._queued and self._num_encoding < MAX_ENCODING:
            is_full = self._num_ready >= self._encode_ahead
            if is_full and self._num_submitted >= self._max_in_flight:
                break
            *_, call_id = heapq.heappop(self._queue)
            place = self._queued.pop(call_id, None)
            if place is not None:
                self._begin(call_id, place, landings)
                has_joined |= call_id not in self._flights
        if has_joined:
            # The dispatcher may have waited for calls that will not come by themselves now.
            self._release(landings)
        return landings

    def end(self) -> None:
        """Cancels everything."""
        for call_id, flight in self._flights.items():
            self._stop_timer(flight)
            self._out(CancelCall(call_id=call_id))
            self._dispatcher.finished(call_id, flight.num_tokens)
        self._flights.clear()
        self._queued.clear()
        self._tell_uses()

    # --- events ----------------------------------------------------------------------------

    def on_encoded(self, call_id: int, token_ids: tuple[int, ...]) -> None:
        """The prompt is there: the dispatcher may have the call."""
        flight = self._flights.get(call_id)
        if flight is not None:
            self._num_encoding -= 1
            flight.token_ids = token_ids
            self._make_ready(flight)

    def on_progressed(self, event: CallProgressed) -> None:
        """An answer grew."""
        flight = self._flight_of(event)
        if flight is not None:
            if self._news.tells_deltas and event.text:
                self._news.tell(flight.waiting, event.text, offset=sum(map(len, flight.told)))
                flight.told.append(event.text)
            if flight.num_tokens == 0:
                self._dispatcher.started(event.call_id)
            flight.num_tokens += event.num_tokens
            tally = self._tallies[flight.call.operator]
            tally.completion_tokens += event.num_tokens
            self._out(Report(progress=OpProgress(statistics=tally.freeze())))

    def on_finished(self, event: CallFinished) -> list[Landing]:
        """The engine gave an answer."""
        flight = self._flight_of(event)
        if flight is None:
            return []
        usage = event.usage
        self._take(flight, usage.completion_tokens)
        tally = self._tallies[flight.call.operator]
        tally.prompt_tokens += usage.prompt_tokens
        tally.kv_cached += usage.kv_cached
        tally.completion_tokens += usage.completion_tokens - flight.num_tokens
        self._budget.finish(event.call_id, usage.prompt_tokens + usage.completion_tokens)
        value = self._value(flight.prompt, event.text, flight.token_ids, event.token_ids)
        source: CallSource = "kv" if usage.kv_cached else "computed"
        given = Given(value=value, usage=usage, finish_reason=event.finish_reason)
        return self._land(flight, given, source)

    def on_served(self, event: CallServed) -> list[Landing]:
        """The answer was already there."""
        flight = self._flight_of(event)
        if flight is None:
            return []
        self._take(flight)
        tally = self._tallies[flight.call.operator]
        if flight.stage == "submitted":
            tally.num_calls -= 1
        self._budget.take_back(event.call_id)
        num_tokens = len(event.prompt_ids)
        tally.num_cached_calls += 1
        tally.cached_prompt_tokens += num_tokens
        value = self._value(flight.prompt, event.text, event.prompt_ids, event.token_ids)
        usage = Usage(prompt_tokens=num_tokens, completion_tokens=len(event.token_ids), kv_cached=0)
        given = Given(value=value, usage=usage, finish_reason=event.finish_reason)
        return self._land(flight, given, "result")

    def on_failed(self, event: CallFailed) -> list[Landing]:
        """An attempt came to nothing: another one, or the end of the call."""
        flight = self._flight_of(event)
        if flight is None:
            return []
        is_out = flight.stage == "submitted"
        if event.worker_failed and is_out and flight.num_reruns < MAX_RERUNS:
            flight.num_reruns += 1
            if flight.release is not None and flight.release.worker is not None:
                self._dispatcher.lost(flight.release.worker)
            self._try_again(flight)
            return []
        if event.may_retry and is_out and flight.num_retries < flight.call.settings.retries:
            self._retry(flight)
            return []
        return self._drop(flight, event.code, event.message)

    def on_timed_out(self, event: CallTimedOut) -> list[Landing]:
        """An attempt took too long: it is cancelled, and perhaps made again."""
        flight = self._flight_of(event)
        if flight is None:
            return []
        settings = flight.call.settings
        self._out(CancelCall(call_id=event.call_id))
        if flight.stage == "submitted" and flight.num_retries < settings.retries:
            self._retry(flight)
            return []
        message = f"it took longer than its timeout of {settings.timeout_s:g} s"
        return self._drop(flight, "timeout", message)

    def _flight_of(self, event: _CallEvent) -> Flight | None:
        """The call on its way that an event is of, if it is of the attempt that counts."""
        flight = self._flights.get(event.call_id)
        return flight if flight is not None and flight.attempt == event.attempt else None

    # --- preparing -------------------------------------------------------------------------

    def _begin(self, call_id: int, place: Place, landings: list[Landing]) -> None:
        """Renders a queued call; then it is served, waits for an equal one, or is encoded."""
        frame, name = place
        settings = step_at(place).settings
        prompt = render_prompt(place, self._look)
        if prompt is None:
            self._dispatcher.finished(call_id, 0)
            landings.append(self._fault(place, None, "value_too_large", TOO_LARGE))
            return
        key = prompt_key(prompt, settings) if self._single_flight else None
        if key is not None and key in self._answers:
            self._dispatcher.finished(call_id, 0)
            given = self._answers[key]
            self._news.tell_value([place], text_of(given.value))
            landings.append(self._serve(place, given))
            return
        if key is not None and key in self._leaders:
            self._dispatcher.finished(call_id, 0)
            frame.running[name] = self._leaders[key]
            leader = self._flights[self._leaders[key]]
            self._news.tell_value([place], "".join(leader.told))
            leader.waiting.append(place)
            return
        call = Call(
            call_id=call_id,
            operator=name,
            row=frame.row,
            turns=prompt.turns,
            settings=settings,
            history=prompt.history,
            index=frame.index,
        )
        self._flights[call_id] = Flight(call=call, prompt=prompt, key=key, waiting=[place])
        if key is not None:
            self._leaders[key] = call_id
        self._num_encoding += 1
        self._out(EncodeCall(call=call))

    def _make_ready(self, flight: Flight) -> None:
        call = flight.call
        flight.stage = "ready"
        self._num_ready += 1
        seconds = call.settings.timeout_s
        if seconds is not None:
            self._out(StartTimer(call_id=call.call_id, attempt=flight.attempt, seconds=seconds))
        self._dispatcher.ready(
            ReadyCall(
                call_id=call.call_id,
                operator=call.operator,
                row=call.row,
                token_ids=flight.token_ids,
                max_tokens=call.settings.sampling.max_tokens,
                priority=call.settings.priority,
                frame=call.index,
            )
        )

    # --- letting in ------------------------------------------------------------------------

    def _release(self, landings: list[Landing]) -> None:
        landings += self._submit_held()
        room = self._max_in_flight - self._num_submitted
        if room > 0 and self._num_ready:
            for release in self._dispatcher.release(room):
                flight = self._flights[release.call_id]
                self._num_ready -= 1
                self._num_submitted += 1
                flight.stage = "held"
                flight.release = release
                self._held.append(release.call_id)
            landings += self._submit_held()
        self._tell_uses()

    def _tell_uses(self) -> None:
        uses = self._dispatcher.uses_changed()
        if uses:
            self._out(Foresee(uses=tuple(uses)))

    def _submit_held(self) -> list[Landing]:
        """Submits what the limits allow; fails what they can never allow."""
        landings: list[Landing] = []
        held, self._held = self._held, []
        for call_id in held:
            flight = self._flights.get(call_id)
            if flight is None or flight.stage != "held":
                continue
            fault = self._budget.call_fault()
            if fault is None:
                most = flight.call.settings.sampling.max_tokens
                fault = self._budget.submit(call_id, len(flight.token_ids), most)
                if fault is None:
                    self._submit(flight)
                    continue
                if not self._budget.is_idle:
                    self._held.append(call_id)
                    continue
            landings += self._drop(flight, "limit_exceeded", fault)
        return landings

    def _submit(self, flight: Flight) -> None:
        assert flight.release is not None
        flight.stage = "submitted"
        tally = self._tallies[flight.call.operator]
        if tally.num_calls == 0:
            started = OpStarted(operator=flight.call.operator, num_rows=tally.num_rows)
            self._out(Report(progress=started))
        tally.num_calls += 1
        self._submitted.append((flight.waiting[0], flight.release.worker))
        self._out(
            SubmitCall(
                call=flight.call,
                token_ids=flight.token_ids,
                release=flight.release,
                attempt=flight.attempt,
            )
        )

    # --- ends ------------------------------------------------------------------------------

    def _retry(self, flight: Flight) -> None:
        self._tallies[flight.call.operator].num_retries += 1
        flight.num_retries += 1
        self._try_again(flight)

    def _try_again(self, flight: Flight) -> None:
        """Gives a submitted call back to the dispatcher; its seed stays the same."""
        call_id = flight.call.call_id
        self._stop_timer(flight)
        flight.attempt += 1
        self._num_submitted -= 1
        self._budget.finish(call_id, flight.num_tokens)
        self._dispatcher.finished(call_id, flight.num_tokens)
        flight.num_tokens = 0
        flight.told.clear()
        flight.release = None
        self._make_ready(flight)

    def _take(self, flight: Flight, output_tokens: int = 0) -> None:
        """Takes a call out of all books but the budget's."""
        del self._flights[flight.call.call_id]
        if flight.key is not None:
            del self._leaders[flight.key]
        match flight.stage:
            case "encoding":
                self._num_encoding -= 1
            case "ready":
                self._num_ready -= 1
            case "held" | "submitted":
                self._num_submitted -= 1
        self._stop_timer(flight)
        self._dispatcher.finished(flight.call.call_id, output_tokens)

    def _stop_timer(self, flight: Flight) -> None:
        if flight.call.settings.timeout_s is not None and flight.stage != "encoding":
            self._out(StopTimer(call_id=flight.call.call_id))

    def _drop(self, flight: Flight, code: str, message: str) -> list[Landing]:
        """Ends a call without an answer, for all that waited for it."""
        self._take(flight)
        self._budget.finish(flight.call.call_id, flight.num_tokens)
        return [self._fault(place, flight.prompt, code, message) for place in flight.waiting]

    def _fault(self, place: Place, prompt: Prompt | None, code: str, message: str) -> Landing:
        """What a place has instead of an answer: a reason, or what the plan says for that case."""
        step = step_at(place)
        settings = step.settings
        if settings.on_error == "fail":
            return Landing(place=place, code=code, message=message)
        self._tallies[place[1]].num_replaced += 1
        text = settings.default if settings.on_error == "default" else ""
        self._news.tell([place], text, offset=0)
        # No token is known: who continues this conversation encodes it as a whole.
        value = self._value(prompt or Prompt(turns=tuple((t.role, "") for t in step.turns)), text)
        return Landing(place=place, value=value, source="default")

    def _land(self, flight: Flight, given: Given, source: CallSource) -> list[Landing]:
        if flight.key is not None:
            self._answers[flight.key] = given
        self._news.tell_value(flight.waiting, text_of(given.value), "".join(flight.told))
        first, *others = flight.waiting
        self._news.tell_answer(first, given, source)
        return [
            Landing(place=first, value=given.value, source=source),
            *(self._serve(place, given) for place in others),
        ]

    def _serve(self, place: Place, given: Given) -> Landing:
        """Gives a place the answer of an equal call."""
        tally = self._tallies[place[1]]
        tally.num_saved_calls += 1
        tally.saved_prompt_tokens += given.usage.prompt_tokens
        self._news.tell_answer(place, given, "result")
        return Landing(place=place, value=given.value, source="result")

    def _value(
        self,
        prompt: Prompt,
        text: str,
        prompt_ids: tuple[int, ...] = (),
        token_ids: tuple[int, ...] = (),
    ) -> Value:
        if not self._keeps_answers:
            return text
        return Answer(
            text=text, turns=prompt.conversation, prompt_ids=prompt_ids, token_ids=token_ids
        )

"""Migrations: coordinator to agent, and between the two agents."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from protocol.messages.base import Bytes, Generation, Id, Message, NodeId, Request, StreamOpen, Text
from protocol.messages.data import GuestSpec, MigrationMode, NodeInfo, Percent
from protocol.messages.reports import MigrationResult, Predicted

OnStall = Literal["abort", "throttle", "postcopy"]


class MigrationParams(Message, frozen=True, kw_only=True):
    """How a guest is to be moved; ``protocol.migration.modes`` says what is refused. ``on_stall``: what is done when
    pre-copy alone would not end; modes without pre-copy take no notice of it."""

    mode: MigrationMode = "auto"
    on_stall: OnStall = "throttle"
    streams: Annotated[int, Meta(ge=1, le=16)] = 1
    protect: bool = False  # post-copy: what the guest writes goes back to the source until the target has all pages
    max_blackout_ms: Annotated[float, Meta(gt=0, le=60000)] = 30.0
    max_rounds: Annotated[int, Meta(ge=1, le=1000)] = 30
    bandwidth: Bytes = 0  # bytes/s; 0: unlimited
    deadline_s: Annotated[float, Meta(gt=0, le=86400)] = 600.0
    verify: bool = False  # checksum all RAM on both ends before COMMIT


class MigrationStart(Request, frozen=True, kw_only=True):
    """To the source. Answered when PREPARE succeeded; progress and result follow as notices."""

    method: ClassVar[str] = "migration.start"
    migration: Id
    guest: Id
    generation: Generation
    target: NodeInfo
    params: MigrationParams = MigrationParams()


class MigrationCancel(Request, frozen=True, kw_only=True):
    method: ClassVar[str] = "migration.cancel"
    migration: Id


class MigrationEstimate(Request, frozen=True, kw_only=True):
    """To the source: what would such a migration take? The guest is watched for a second; nothing is changed."""

    method: ClassVar[str] = "migration.estimate"
    guest: Id
    generation: Generation
    target: NodeInfo
    params: MigrationParams = MigrationParams()


class Estimate(Message, frozen=True, kw_only=True):
    mode: MigrationMode  # never "auto"
    reason: Text = ""  # why it would be given up
    throttle: Percent = 0  # the most that the guest would rest
    predicted: Predicted
    resident_pages: int  # that hold something else than zeros
    zero_pages: int
    dirty_rate: float  # pages/s written first
    dirty_pages: int  # different pages written within the time of watching
    disk_bytes: Bytes = 0  # of its disk, that differ from the image's
    disk_rate: float = 0.0  # bytes/s of it written
    bytes_per_s: float
    rate_from: Literal["migrations", "probe"]


MigrationEstimate.answer = Estimate


class MigrationProbe(StreamOpen, frozen=True, kw_only=True):
    """Source to target: bytes that are thrown away, to see how fast they go. The end is answered with one byte."""

    method: ClassVar[str] = "migration.probe"


class MigrationLookup(Request, frozen=True, kw_only=True):
    method: ClassVar[str] = "migration.lookup"
    answer: ClassVar[type[Message]] = MigrationResult
    migration: Id


class Settle(Request, frozen=True, kw_only=True):
    """The store's word pushed to both ends as soon as it is known, so that nobody waits for a dead peer."""

    method: ClassVar[str] = "migration.settle"
    migration: Id
    guest: Id
    decision: Literal["committed", "aborted"]
    generation: Generation
    owner: NodeId


class MigrationPrepare(Request, frozen=True, kw_only=True):
    """Source to target: reserve memory, make the guest process, map its RAM."""

    method: ClassVar[str] = "migration.prepare"
    migration: Id
    spec: GuestSpec
    generation: Generation  # the present one; after COMMIT it is this + 1
    source: NodeId
    state_version: int = 1  # of the machine state that will come
    cold: bool = False  # the guest is stopped: nothing but its disk comes
    disk_bytes: Bytes = 0  # that the guest's disk has content for, at the source; 0: it has no disk
    asks: bool = False  # it may ask for pages that the target has (SPEC 11.9)
    rate: Bytes = 0  # bytes/s that the source expects of the way; 0: it does not know


class Prepared(Message, frozen=True, kw_only=True):
    state_version: int  # the newest machine state that it reads
    state_oldest: int = 1
    postcopy: bool = False  # it can pull pages after the switch
    squeezed: bool = False  # it understands batches that are squeezed, and changes of pages (SPEC 11.4)
    fills: bool = False  # it understands pages of one word (SPEC 11.4)
    files: bool = False  # it has the image's kernel and initrd, and understands pages that stand in them (SPEC 11.4)
    protect: bool = False  # it can stream back what the guest writes while pages are missing (SPEC 11.7)
    names: Annotated[bytes, Meta(max_length=32)] = (
        b""  # key of the names of pages it may be asked for (SPEC 11.8); "": none
    )
    ticket: Annotated[bytes, Meta(max_length=32)] = b""  # for a channel (SPEC 9.3) in place of MigrationPages; "": none
    key_there: Annotated[bytes, Meta(max_length=32)] = b""  # seals what the source sends on it
    key_back: Annotated[bytes, Meta(max_length=32)] = b""
    disks: bool = False  # it takes the guest's disk (SPEC 11.8); a source must not begin with one that does not
    disk_ticket: Annotated[bytes, Meta(max_length=32)] = b""  # for a channel in place of MigrationDisk; "": none
    disk_key_there: Annotated[bytes, Meta(max_length=32)] = b""
    disk_key_back: Annotated[bytes, Meta(max_length=32)] = b""

    def __repr__(self) -> str:  # who has the keys may take the guest's memory
        return f"Prepared(state_version={self.state_version}, postcopy={self.postcopy}, ...)"


MigrationPrepare.answer = Prepared


class MigrationAsk(Request, frozen=True, kw_only=True):
    """COPY, before a round's pages: which of these does the target have (SPEC 11.8)? Only to one that gave a key. They
    are numbered in the order in which they are asked, from 0."""

    method: ClassVar[str] = "migration.ask"
    migration: Id
    names: Annotated[bytes, Meta(max_length=256 << 10)]  # 16 bytes each
    pages: Annotated[bytes, Meta(max_length=64 << 10)]  # the number of the page that has it, u32 LE each


class Asked(Message, frozen=True, kw_only=True):
    found: Annotated[bytes, Meta(max_length=2 << 10)]  # bit i % 8 of byte i / 8: it has a page of that name


MigrationAsk.answer = Asked


class MigrationPages(StreamOpen, frozen=True, kw_only=True):
    """Page batches (api.cdef wh_ramview_pack), each behind a big-endian u32 length. An empty batch ends a round and is
    answered with one byte once everything before it lies in RAM. The last round, of the paused guest, ends with the
    stream's end; ``migration.state`` is answered when its pages are in place too. In post-copy rounds
    leave out pages: ``migration.state`` names what is missing."""

    method: ClassVar[str] = "migration.pages"
    migration: Id


class MigrationDisk(StreamOpen, frozen=True, kw_only=True):
    """Blocks of the guest's disk (SPEC 11.8): batches (api.cdef wh_diskview_pack), maybe squeezed, each behind a
    big-endian u32 length. An empty one ends a round; it is answered by an empty frame once everything before it is on
    the target's disk and synced, and at any time by a frame with a text: why the target takes no more. The last round
    ends with the stream's end; ``migration.state`` is answered when it is synced too."""

    method: ClassVar[str] = "migration.disk"
    migration: Id


class MigrationWarm(Request, frozen=True, kw_only=True):
    """COPY, once after the first round: what the source's translator found hot, so that the target translates it before
    the switch. A hint: nothing depends on it, and a target that does not know it answers unsupported. Answered when it
    is done, after 250 ms at the latest."""

    method: ClassVar[str] = "migration.warm"
    migration: Id
    hot: Annotated[bytes, Meta(max_length=128 << 10)]  # api.cdef wh_machine_hot_list; opaque here


class Warmed(Message, frozen=True, kw_only=True):
    blocks: int = 0


MigrationWarm.answer = Warmed


class MigrationState(Request, frozen=True, kw_only=True):
    """SWITCH: everything but RAM. Answered when the target could run."""

    method: ClassVar[str] = "migration.state"
    migration: Id
    state: Annotated[bytes, Meta(max_length=8 << 20)]
    paused_at: float  # source CLOCK_REALTIME of its last instruction
    verify: bool
    absent: Annotated[bytes, Meta(max_length=2 << 20)] = b""  # post-copy: pages not sent; u64 LE words, bit = page
    protect: bool = False  # what the guest writes is to be streamed back (MigrationProtect) until no page is missing


class MigrationPull(StreamOpen, frozen=True, kw_only=True):
    """Target to source, from the state's arrival until every page is there; again after each break. Frames behind a
    big-endian u32 length. The target's are msgpack arrays: first ["absent", bitmap as in ``migration.state``], then
    ["wanted", page numbers as u64 LE] for pages that somebody waits for, ["got", bytes] for frames it has placed, and
    ["done"] when nothing is missing. The source's are batches as in ``migration.pages``: what was wanted, at once, with
    pages behind it; what is likely to be needed soon, and after COMMIT the others too, of which little may be under way
    at a time. It ends the stream when it has taken note of "done". Refused with not_found: it has no such pages
    (any more). With a ticket the source may come to the target with a channel (SPEC 11.6), on which the target then
    begins anew."""

    method: ClassVar[str] = "migration.pull"
    migration: Id
    squeezed: bool = False  # batches may be squeezed (SPEC 11.4)
    ticket: Annotated[bytes, Meta(max_length=32)] = b""
    key_there: Annotated[bytes, Meta(max_length=32)] = b""  # seals what the target sends on it
    key_back: Annotated[bytes, Meta(max_length=32)] = b""

    def __repr__(self) -> str:
        return f"MigrationPull(migration={self.migration!r}, ...)"


class MigrationProtect(StreamOpen, frozen=True, kw_only=True):
    """Target to source, of a protected post-copy, while the pull lasts: epochs (SPEC 11.7). Frames behind a big-endian
    u32 length: batches as in ``migration.pages``, an empty one, the guest's state as in ``migration.state``. The source
    answers each epoch with one byte when its copy is what the guest was then."""

    method: ClassVar[str] = "migration.protect"
    migration: Id


class TargetReady(Message, frozen=True, kw_only=True):
    checksum: Text = ""
    verify_ms: float = 0.0


MigrationState.answer = TargetReady


class MigrationFinish(Request, frozen=True, kw_only=True):
    """Source to target, after the store's answer. On "committed" the answer tells when the target began to run."""

    method: ClassVar[str] = "migration.finish"
    migration: Id
    decision: Literal["committed", "aborted"]
    generation: Generation


class Finished(Message, frozen=True, kw_only=True):
    resumed_at: float = 0.0  # target CLOCK_REALTIME of its first possible instruction
    clock: float = 0.0  # target CLOCK_REALTIME when it answered: with the RTT this bounds the offset


MigrationFinish.answer = Finished

"""Sends that the compiled parser left: decoded, prepared, submitted, or refused with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shmq.broker import names
from shmq.broker.sending import FORBIDDEN_TOPICS, TopicUnknown
from shmq.errors import RequestRefused
from shmq.wire.codes import Perm, RequestCode, ResponseCode
from shmq.wire.internal import CreateTopic
from shmq.wire.send import decode_send

if TYPE_CHECKING:
    from shmq.broker.sending import SendService
    from shmq.config import Settings
    from shmq.wire.header import Header
    from shmq.wire.internal import Reply, TopicView
    from shmq.wire.send import SendHeader
    from shmq.workers.clientconn import ClientConnection
    from shmq.workers.serve import ServeRole

SEND_CODES: Final = frozenset(
    {RequestCode.SEND_MESSAGE, RequestCode.SEND_MESSAGE_V2, RequestCode.SEND_BATCH_MESSAGE}
)


class SendDesk:
    """The general path of sends in one serve process."""

    def __init__(self, *, serve: ServeRole, service: SendService, settings: Settings) -> None:
        self._serve = serve
        self._service = service
        self._settings = settings
        self.refuse_ms = 0
        """Not 0: sends are refused now, because those before them waited so long."""

    def reload(self, settings: Settings) -> None:
        """Take the settings anew."""
        self._settings = settings
        self._service.reload(settings)

    def is_special(self, view: TopicView) -> bool:
        """Whether sends to this topic need the checks of the general path."""
        return (
            view.name in FORBIDDEN_TOPICS
            or view.name.startswith((names.RETRY_PREFIX, names.DLQ_PREFIX))
            or (view.order and not self._settings.broker_permission & Perm.WRITE)
        )

    def take(self, connection: ClientConnection, request: Header, body: bytes) -> bool:
        """Serve one send; False when it must wait for room in the ring.

        Raises:
            RequestRefused: it is not stored.
        """
        self._serve.gate.check()
        if self.refuse_ms:
            raise RequestRefused(
                ResponseCode.SYSTEM_BUSY,
                "the broker is busy, the send waited too long",
                waited_for=self._serve.ring.why_busy(),
                waited_ms=self.refuse_ms,
                allowed_ms=self._settings.wait_time_mills_in_send_queue,
            )
        send = decode_send(request.code, request.ext)
        try:
            return self._submit(connection, request, send, body)
        except TopicUnknown:
            self._create_topic(connection, request, send, body)
            return True

    def _submit(
        self, connection: ClientConnection, request: Header, send: SendHeader, body: bytes
    ) -> bool:
        prepared = self._service.prepare(
            send, body, born_host=connection.born_host, born_port=connection.born_port
        )
        if self._serve.ring.submit(prepared, connection, request):
            return True
        self._serve.block(connection)
        return False

    def _create_topic(
        self, connection: ClientConnection, request: Header, send: SendHeader, body: bytes
    ) -> None:
        """Have the topic made, then go on with the send."""

        def then(reply: Reply) -> None:
            if connection.gone:
                return
            if reply.code != ResponseCode.SUCCESS:
                self._serve.reply_later(connection, request, reply.code, reply.remark)
                return
            self._go_on(connection, request, send, body)

        self._serve.uplink.need_room()
        self._serve.uplink.create_topic(
            CreateTopic(
                token=0,
                topic=send.topic,
                default_topic=send.default_topic,
                queue_count=send.default_topic_queue_count,
                peer=connection.peer,
            ),
            then,
            now_ms=self._serve.now_ms,
            size=len(body),
        )

    def _go_on(
        self, connection: ClientConnection, request: Header, send: SendHeader, body: bytes
    ) -> None:
        """The topic is there; a full ring now is the client's to try again."""
        serve = self._serve
        try:
            prepared = self._service.prepare(
                send, body, born_host=connection.born_host, born_port=connection.born_port
            )
        except TopicUnknown:
            serve.reply_later(
                connection, request, ResponseCode.TOPIC_NOT_EXIST, "the topic was deleted again"
            )
        except RequestRefused as error:
            serve.reply_later(connection, request, error.code, str(error))
        else:
            if not serve.ring.submit(prepared, connection, request):
                serve.reply_later(
                    connection,
                    request,
                    ResponseCode.SYSTEM_BUSY,
                    f"the broker is busy: the submission ring is full; {serve.ring.why_busy()}",
                )

"""Puts together what answers for people's data: exports, erasures, and the purge of deleted tenants."""

from collections.abc import Callable
from datetime import datetime

import grpc
import structlog

from redoma_kit.database import Database
from redoma_kit.periodic import Periodic
from redoma_tenant.content_channel import GrpcContentChannel, NoContentChannel
from redoma_tenant.identity import SigningKey
from redoma_tenant.privacy.certificate import certificate_of
from redoma_tenant.privacy.eraser import Eraser, ErasurePlace
from redoma_tenant.privacy.erasures import Erasures
from redoma_tenant.privacy.export import Exports
from redoma_tenant.privacy.places import ChatPlace, SignInPlace
from redoma_tenant.privacy.purges import Purges
from redoma_tenant.servicers.privacy import PrivacyServicer
from redoma_tenant.store.erasures import SqlErasureStore
from redoma_tenant.store.holdings import SqlHoldings

ERASE_INTERVAL_S = 5.0
PURGE_INTERVAL_S = 2.0


class PrivacyParts:
    """What the server adds, starts and stops.

    Attributes:
        servicer: PrivacyService.
    """

    def __init__(
        self,
        database: Database,
        chat: grpc.aio.Channel | None,
        models: ErasurePlace | None,
        signing_key: SigningKey,
        now: Callable[[], datetime],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        """Takes the channel of the chat service, and what the models hold, where they are configured."""
        store = SqlErasureStore(database)
        content = NoContentChannel() if chat is None else GrpcContentChannel(chat)
        places: list[ErasurePlace] = [
            ChatPlace(content, store),
            *([] if models is None else [models]),
            SignInPlace(store, now),
        ]
        names = [place.name for place in places]
        eraser = Eraser(store, places, lambda erasure: certificate_of(erasure, signing_key), now, log)
        self._eraser = Periodic("erasures", ERASE_INTERVAL_S, eraser.work, log)
        purges = Purges(store, names, self._eraser.wake, now, log)
        self._purges = Periodic("purges", PURGE_INTERVAL_S, purges.work, log)
        erasures = Erasures(store, names, now, self._eraser.wake)
        self.servicer = PrivacyServicer(Exports(SqlHoldings(database), content, now), erasures)

    def start(self) -> None:
        """Goes on with what is pending."""
        self._eraser.start()
        self._purges.start()

    async def stop(self) -> None:
        """Stops; what is pending stays so."""
        await self._purges.stop()
        await self._eraser.stop()

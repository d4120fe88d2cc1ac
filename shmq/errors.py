"""One tree of errors; the class tells the caller what to do.

ShmqError
  LayoutError      a segment or file is not what its layout says    -> refuse to attach
  ConfigError      a setting is wrong                               -> refuse to start
  StoreError       the store cannot be used as it is                -> do not start, or go read-only
    CorruptRecord  bytes in the commitlog are not a record          -> truncate here
  ProtocolError    a peer broke the protocol                        -> close the connection
  RequestRefused   a request cannot be served                       -> answer with its code
  Unavailable      a part of the broker does not answer             -> try again later
  ClientError      a call of the client library did not succeed
    NotConnected   nobody answers at the addresses tried            -> check the address, try later
    TopicNotFound  no broker knows the topic                        -> create it
    Refused        a broker answered with a code                    -> see code and remark
      SendFailed   a message was not stored, as far as is known     -> see code and remark
    Timeout        no answer in the time given                      -> it may have happened or not
    InvalidMessage a message cannot be sent, or its body not read   -> change it
    Closed         the object was closed, or is another process's   -> open a new one
"""

from __future__ import annotations


class ShmqError(Exception):
    """Base of all errors; `facts` are in the message and go into the log as fields."""

    def __init__(self, what: str, **facts: object) -> None:
        self.what = what
        self.facts = facts
        super().__init__(what, facts)

    def __str__(self) -> str:
        if not self.facts:
            return self.what
        return self.what + ": " + " ".join(f"{name}={value}" for name, value in self.facts.items())


class LayoutError(ShmqError):
    """A segment or file does not have the layout that this process knows."""


class ConfigError(ShmqError):
    """A setting has a value or a name that is not allowed."""


class StoreError(ShmqError):
    """The store cannot be used as it is."""


class CorruptRecord(StoreError):
    """The bytes at a physical offset are not a whole record."""


class ProtocolError(ShmqError):
    """A peer sent what the protocol does not allow; the connection must be closed."""


class RequestRefused(ShmqError):
    """A well-formed request that must be answered with an error code.

    `code` is a RocketMQ response code (wire.codes.ResponseCode); str(error) is the remark.
    """

    def __init__(self, code: int, what: str, **facts: object) -> None:
        self.code = code
        super().__init__(what, **facts)


class Unavailable(ShmqError):
    """A part of the broker, or a peer, does not answer now."""


class ClientError(ShmqError):
    """A call of the client library did not succeed."""


class NotConnected(ClientError):
    """Nobody answers at the addresses tried, or the connection broke."""


class TopicNotFound(ClientError):
    """No broker knows the topic, and none would create it."""


class Refused(ClientError):
    """A broker or name server answered with a code other than success.

    `code` is a RocketMQ response code (wire.codes.ResponseCode), `remark` what came with it.
    """

    def __init__(self, what: str, *, code: int = 0, remark: str = "", **facts: object) -> None:
        self.code = code
        self.remark = remark
        super().__init__(what, code=code, remark=remark, **facts)


class SendFailed(Refused):
    """A message was not stored, as far as the client knows; code 0: no broker answered."""


class Timeout(ClientError):
    """No answer in the time given; what was asked for may have happened or not."""


class InvalidMessage(ClientError):
    """A message cannot be sent as it is, or a received body cannot be read."""


class Closed(ClientError):
    """The object was closed, or it belongs to the process before a fork."""

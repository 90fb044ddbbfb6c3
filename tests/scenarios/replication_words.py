"""The words of the replication scenarios, over replicas in memory (`tests.unit.replication.harness`).

    cluster 3 min.insync.replicas=2     brokers 1 to 3, each with a replica; settings of the topic
    lead 1 isr 1 2 3 [told 2 3]         a new leadership is committed, and told to all or to these
    isr 1 2 / tell 1 2                  another ISR is committed; brokers read what is committed
    produce 1 a [3] [acks 1]            a batch `a` (of so many records) comes to broker 1
    run / news                          everything on its way is delivered; leaders say their watermarks first
    cut 1 3 / heal                      what is sent between these two is lost; followers that were cut off ask anew
    restart 2 [keeping 5]               a new process, on the log, or on what is left of it below 5
    ack 2 3a epoch 1 end 5              broker 2 hears late that process 3a has all below 5, said in epoch 1
    pass 1000                           so many ms
    logs                                what everybody has

`python -m tests.scenarios.replication_words --rewrite` writes down what the commands print now.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rayqueue.protocol.messages import BatchHeader
from rayqueue.replication import events as ev
from tests.scenarios.golden import rewritten
from tests.unit.replication.harness import Cluster, Host, batch

DIRECTORY = Path(__file__).parent / "replication"


class World:
    """One scenario."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self._names: dict[int, str] = {}
        self._told: dict[str, int] = {}

    def run(self, line: str) -> list[str]:
        """Does what a line says; what came of it."""
        word, *rest = line.split()
        if word == "logs":
            return [self._log(host) for host in self.cluster.hosts.values()]
        getattr(self, f"_{word}")(*rest)
        return [text for host in self.cluster.hosts.values() for text in self._news_of(host)]

    # --- words -------------------------------------------------------------------------------------------------------

    def _cluster(self, brokers: str, *settings: str) -> None:
        self.cluster = Cluster(int(brokers), **dict(setting.split("=") for setting in settings))

    def _lead(self, leader: str, _isr: str, *rest: str) -> None:
        at = rest.index("told") if "told" in rest else len(rest)
        self.cluster.lead(int(leader), [int(one) for one in rest[:at]], [int(one) for one in rest[at + 1 :]] or None)

    def _isr(self, *members: str) -> None:
        self.cluster.commit_isr(*(int(member) for member in members))

    def _tell(self, *brokers: str) -> None:
        self.cluster.tell(*(int(broker) for broker in brokers))

    def _produce(self, broker: str, name: str, *rest: str) -> None:
        count = int(rest[0]) if rest and rest[0].isdigit() else 1
        self.cluster[int(broker)].produce(name, batch(count), 1 if "acks" in rest else -1)

    def _run(self) -> None:
        self.cluster.run()

    def _news(self) -> None:
        self.cluster.news()

    def _cut(self, one: str, other: str) -> None:
        self.cluster.cuts.add(frozenset((int(one), int(other))))

    def _heal(self) -> None:
        cuts, self.cluster.cuts = self.cluster.cuts, set()
        for host in self.cluster.hosts.values():
            if not host.replica.leading and frozenset((host.broker_id, host.follower.leader)) in cuts:
                host.step(ev.FeedLost(host.replica.leader_epoch))

    def _restart(self, broker: str, *keeping: str) -> None:
        host = self.cluster[int(broker)]
        if keeping:
            host.log.truncate(int(keeping[1]))
        self.cluster.restart(int(broker))

    def _ack(self, leader: str, incarnation: str, _epoch: str, epoch: str, _end: str, end: str) -> None:
        event = ev.FetchAcked(int(incarnation[0]), incarnation, int(epoch), int(end))
        self.cluster[int(leader)].step(event)

    def _pass(self, ms: str) -> None:
        self.cluster.pass_ms(int(ms))

    # --- what is printed ---------------------------------------------------------------------------------------------

    def _news_of(self, host: Host) -> list[str]:
        seen = self._told.get(host.incarnation, 0)
        self._told[host.incarnation] = len(host.effects)
        said = (self._say(host, effect) for effect in host.effects[seen:])
        return [f"{host.incarnation} {text}" for text in said if text]

    def _say(self, host: Host, effect: ev.Effect) -> str:
        match effect:
            case ev.Append(ref=name, header=header) if isinstance(name, str):
                self._names[id(header)] = name
            case ev.Reply(ref=name, error=error, base_offset=offset):
                return f"answers {name}: {error or f'it is at {offset}'}"
            case ev.HighWatermark(offset=offset):
                return f"high watermark {offset}"
            case ev.Truncate(end=end):
                return f"cuts its log at {end}"
            case ev.ResetLog(start=start):
                return f"empties its log, to begin at {start}"
            case ev.ProposeIsr(isr=isr, partition_epoch=epoch):
                return f"proposes {', '.join(name for _, name in isr)} (partition epoch {epoch})"
            case ev.Follow(leader=leader, offset=offset, last_epoch=last):
                return f"asks {leader} from {offset} on, its last epoch is {last}"
            case ev.RefuseFetch(follower=follower, error=error, epoch=epoch, end=end):
                return f"tells {follower}: {error or f'epoch {epoch} ends at {end}'}"
        return ""

    def _log(self, host: Host) -> str:
        role = "leads" if host.replica.leading else "follows"
        batches = " ".join(map(self._batch, host.log.batches)) or "nothing"
        return f"{host.incarnation} {role} in epoch {host.replica.leader_epoch}, high watermark " + (
            f"{host.replica.high_watermark}: {batches}"
        )

    def _batch(self, header: BatchHeader) -> str:
        return f"{self._names.get(id(header), '?')}@{header.leader_epoch}"


def main() -> None:
    """Rewrites the files, or says which differ."""
    for path in sorted(DIRECTORY.glob("*.txt")):
        text = rewritten(path.read_text(), World().run)
        if "--rewrite" in sys.argv:
            path.write_text(text)
        elif text != path.read_text():
            print(f"{path.name} differs")


if __name__ == "__main__":
    main()

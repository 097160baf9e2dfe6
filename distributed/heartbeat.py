"""Detect the loss of another worker, even if its machine disappears silently.

TCP reports a lost machine only after minutes, and never while this process merely waits. The coordination service of
TensorFlow sends no heartbeats for a tf.train.Server with a tf.Session. Therefore, a thread of each worker sends a short
UDP packet to all other workers every few seconds, from program start. The UDP port has the same number as the worker's
TCP port.
"""

import contextlib
import hashlib
import json
import os
import socket
import sys
import threading
import time

from distributed.launcher import EXIT_LOST, WorkerLost
from options import UserError

MAX_INTERVAL = 2  # seconds between packets
SHORT_TIMEOUT = 5  # seconds, once TensorFlow has reported that a connection is lost
FINAL_PACKETS = 3  # the last packet of a worker is repeated, because UDP may lose packets


@contextlib.contextmanager
def watch_workers(addresses, index, timeout):
    """End this process with a one-line message and exit code 138 if another worker is lost while the context is open.

    A worker is lost after `timeout` seconds without a packet. Time during which this process is suspended does not
    count. A worker that leaves the context without an exception has finished. It is no longer watched.

    Args:
        addresses: 'host:port' of each worker. With fewer than two workers, nothing happens.
        index: number of this worker.
        timeout: in seconds.

    Raises:
        UserError: if the UDP port of this worker is in use.
        WorkerLost: if TensorFlow reports a lost worker, but all workers send packets.
    """
    if len(addresses) < 2:
        yield
        return
    heartbeat = Heartbeat(addresses, index, timeout)
    try:
        yield
        heartbeat.send_final(finished=True)
    except WorkerLost:
        heartbeat.wait_for_watcher()
        raise
    finally:
        heartbeat.close()


class Heartbeat:
    """The threads of worker `index` that send packets to the other workers and receive theirs."""

    def __init__(self, addresses, index, timeout):
        self.addresses, self.index, self.timeout = addresses, index, timeout
        self.interval = min(MAX_INTERVAL, timeout / 5)
        # Packets of other clusters, which may have used the same ports before, are ignored.
        self.cluster = hashlib.sha256(json.dumps(list(addresses)).encode()).hexdigest()[:16]
        self.start_id = os.urandom(8).hex()  # differs after a restart of this worker
        self.peers = [peer for peer in range(len(addresses)) if peer != index]
        self.silence = dict.fromkeys(self.peers, 0.)  # seconds since the last packet of each worker that is watched
        self.start_ids = {}  # the first start ID that each worker has reported
        self.restarted = None  # a worker that has restarted since
        self.error_reported = False  # whether TensorFlow has reported a lost connection
        self.closed = threading.Event()
        self.places = {}  # the socket addresses of each worker whose host name has been resolved
        self.socket = open_socket(addresses[index])
        self.stderr = os.dup(2)  # tf1.py redirects standard error while it imports TensorFlow
        self.socket.settimeout(self.interval / 10)
        self.watcher = threading.Thread(target=self.watch, daemon=True)
        self.watcher.start()
        threading.Thread(target=self.send_packets, daemon=True).start()

    def wait_for_watcher(self):
        """Give the watching thread time to end this process. Return if all workers send packets."""
        self.timeout, self.error_reported = min(self.timeout, SHORT_TIMEOUT), True
        time.sleep(self.timeout + 2 * self.interval)

    def close(self):
        """Stop sending packets and watching the other workers."""
        self.closed.set()
        self.watcher.join()  # otherwise the port would stay in use
        self.socket.close()
        os.close(self.stderr)

    def send_packets(self):
        """Send packets until the heartbeat is closed."""
        self.send()
        while not self.closed.wait(self.interval):
            self.send()

    def send(self, **news):
        """Send a packet to all other workers.

        Args:
            news: finished=True if this worker has finished, or lost=N if it has lost worker N.
        """
        packet = json.dumps({'cluster': self.cluster, 'worker': self.index, 'start_id': self.start_id, **news}).encode()
        for peer in self.peers:
            with contextlib.suppress(OSError):  # no route or no such host, which may be temporary
                if peer not in self.places:
                    self.places[peer] = resolve(self.addresses[peer], self.socket.family)
            for place in self.places.get(peer, ()):
                with contextlib.suppress(OSError):
                    self.socket.sendto(packet, place)

    def send_final(self, **news):
        """Send a packet several times."""
        for _ in range(FINAL_PACKETS):
            self.send(**news)

    def watch(self):
        """Receive packets. End this process if a worker is lost."""
        previous = time.monotonic()
        while not self.closed.is_set():
            message = self.receive() or self.find_loss()
            if message and not self.closed.is_set():
                end_process(message, self.stderr)
            now = time.monotonic()
            # If more time has passed, this process was suspended, or another thread kept Python busy.
            elapsed, previous = min(now - previous, self.interval), now
            for peer in self.silence:
                self.silence[peer] += elapsed

    def receive(self):
        """Wait a moment for a packet. Return a message if the packet shows that a worker is lost, else None."""
        try:
            packet = json.loads(self.socket.recv(4096))
            if packet['cluster'] != self.cluster:
                return None
            peer, start_id = packet['worker'], packet['start_id']
        except (OSError, ValueError, KeyError, TypeError):  # nothing was received, or the packet of another program
            return None
        if start_id != self.start_ids.setdefault(peer, start_id):
            self.restarted = peer
        if packet.get('finished'):
            self.silence.pop(peer, None)
        elif peer in self.silence:
            self.silence[peer] = 0.
        lost = packet.get('lost')
        if lost is None:
            return None
        if lost == self.index:
            return f'{self.describe(peer)} has received nothing from this worker: restart all workers'
        return f'{self.describe(lost)} is lost (worker {peer} reports it): restart all workers'

    def find_loss(self):
        """Return a message if a worker has been silent for too long or has restarted, else None."""
        if not self.silence:
            return None
        peer = max(self.silence, key=self.silence.get)
        if self.silence[peer] > self.timeout:
            self.send_final(lost=peer)
            if peer in self.start_ids:
                return f'{self.describe(peer)} has sent nothing for {self.timeout} s: restart all workers'
            return (f'{self.describe(peer)} did not start within {self.timeout} s: start all '
                    'workers, and allow UDP and TCP on their ports')
        if self.error_reported and self.restarted is not None:
            return f'{self.describe(self.restarted)} has restarted: restart all workers'
        return None

    def describe(self, peer):
        """Return the number and the address of a worker."""
        return f'worker {peer} at {self.addresses[peer]}'


def open_socket(address):
    """Return a UDP socket on the port of an address, for IPv4 and, if this machine supports it, IPv6."""
    port = int(address.rsplit(':', 1)[1])
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    udp = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        udp.bind(('', port))
    except OSError as error:
        udp.close()
        raise UserError(f'cannot listen on the UDP port of {address} ({os.strerror(error.errno)}): choose another port '
                        'in TF_CONFIG, or stop the process that uses it') from error
    return udp


def resolve(address, family):
    """Return the socket addresses of 'host:port'. Raise OSError if the host name does not resolve."""
    host, port = address.rsplit(':', 1)
    flags = socket.AI_V4MAPPED | socket.AI_ALL
    return [place for *_, place in socket.getaddrinfo(host.strip('[]'), int(port), family, socket.SOCK_DGRAM,
                                                      flags=flags)]


def end_process(message, stderr):
    """Write a message to a file descriptor and end this process, even if its main thread waits in TensorFlow."""
    sys.stdout.flush()
    os.write(stderr, f'main.py: {message}\n'.encode())
    os._exit(EXIT_LOST)

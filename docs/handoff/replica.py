"""A replica that takes connections from the balancer: `delivery: HandOff`. It greets each client and echoes what it says."""
import os
import socket
import threading


def serve(connection):
    with connection:
        connection.sendall(b"hello from %d\n" % os.getpid())
        while data := connection.recv(65536):
            connection.sendall(data)


assert int(os.environ["LISTEN_PID"]) == os.getpid()
names = os.environ["LISTEN_FDNAMES"].split(":")
channel = socket.socket(fileno=3 + names.index("handoff"))
while True:
    number, descriptors, _, _ = socket.recv_fds(channel, 8, 1)
    if not number:
        break
    connection = socket.socket(fileno=descriptors[0])
    channel.send(number)
    threading.Thread(target=serve, args=(connection,)).start()

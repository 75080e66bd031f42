/* The far ends of the suite `proxy`: what serves behind a proxy, and what asks it. They must cost less than what is
 * measured, so they are C: sendfile from memory, reads that throw away, one epoll each.
 *
 *   far serve ADDRESS                       echo on ECHO, one answer on SHORT, a source, a sink, a UDP echo; until stdin ends
 *   far KIND ADDRESS PORT NUMBER SECONDS    NUMBER at a time; prints: units seconds p50 p99 highest failures (seconds)
 *
 * KIND: down, up (units are bytes), conn (connections), keep (messages), udp (datagrams), idle (opens NUMBER
 * connections, says `ready`, holds them until stdin ends). */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ECHO = 701, SHORT, SOURCE, SINK, UDP };
enum { MESSAGE = 64, CHUNK = 1 << 20, EVENTS = 512, SAMPLES = 1 << 22, AHEAD = 8, FDS = 1 << 16 };
#define PATIENCE 0.2 /* seconds until a datagram counts as lost */

static int loop, zeros;
static char buffer[CHUNK];
static unsigned char kind_of[FDS]; /* the listening port's place, ECHO..UDP, by descriptor; 1 + those: accepted */
static double begun[FDS];
static double *samples;
static long units, failures, count;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static struct sockaddr_in at(const char *address, int port) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
  if (inet_pton(AF_INET, address, &a.sin_addr) != 1) fail(address);
  return a;
}

static void watch(int fd, unsigned events) {
  struct epoll_event e = {.events = events, .data.fd = fd};
  if (epoll_ctl(loop, EPOLL_CTL_ADD, fd, &e)) fail("epoll_ctl");
}

static void prepare(void) {
  signal(SIGPIPE, SIG_IGN);
  loop = epoll_create1(0);
  zeros = memfd_create("zeros", 0);
  if (loop < 0 || zeros < 0 || ftruncate(zeros, CHUNK)) fail("prepare");
}

/* ---- the server ---- */

static void serve_one(int fd, int place, unsigned events) {
  if (place == SOURCE - ECHO) {
    off_t from = 0;
    while (sendfile(fd, zeros, &from, CHUNK) > 0) from = 0;
    if (errno == EAGAIN && !(events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP))) return;
    close(fd);
    return;
  }
  for (;;) {
    ssize_t got = recv(fd, buffer, place == SINK - ECHO ? CHUNK : 4096, place == SINK - ECHO ? MSG_TRUNC : 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
      close(fd);
      return;
    }
    if (place == SINK - ECHO) continue;
    if (send(fd, buffer, got, MSG_NOSIGNAL) != got || place == SHORT - ECHO) {
      close(fd);
      return;
    }
    if (got < 4096) return;
  }
}

static void echo_datagrams(int fd) {
  static struct mmsghdr m[64];
  static struct iovec v[64];
  static struct sockaddr_in from[64];
  for (;;) {
    for (int i = 0; i < 64; i++) {
      v[i] = (struct iovec){buffer + i * 2048, 2048};
      m[i].msg_hdr = (struct msghdr){.msg_name = &from[i], .msg_namelen = sizeof from[i], .msg_iov = &v[i], .msg_iovlen = 1};
    }
    int got = recvmmsg(fd, m, 64, MSG_DONTWAIT, NULL);
    if (got <= 0) return;
    for (int i = 0; i < got; i++) v[i].iov_len = m[i].msg_len;
    for (int sent = 0, n; sent < got; sent += n)
      if ((n = sendmmsg(fd, m + sent, got - sent, 0)) <= 0) n = 1;
  }
}

static int open_port(const char *address, int port) {
  struct sockaddr_in a = at(address, port);
  int one = 1, big = 4 << 20;
  int fd = socket(AF_INET, (port == UDP ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK, 0);
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (port == UDP) setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &big, sizeof big);
  else setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (bind(fd, (struct sockaddr *)&a, sizeof a) || (port != UDP && listen(fd, 4096))) fail("listen");
  return fd;
}

static void serve(const char *address) {
  int listeners[UDP - ECHO + 1];
  for (int port = ECHO; port <= UDP; port++) watch(listeners[port - ECHO] = open_port(address, port), EPOLLIN);
  watch(0, EPOLLIN);
  puts("ready");
  fflush(stdout);
  for (;;) {
    struct epoll_event e[EVENTS];
    int ready = epoll_wait(loop, e, EVENTS, -1);
    for (int i = 0; i < ready; i++) {
      int fd = e[i].data.fd, place = -1;
      if (fd == 0) exit(0);
      for (int p = 0; p <= UDP - ECHO; p++)
        if (listeners[p] == fd) place = p;
      if (place == UDP - ECHO) echo_datagrams(fd);
      else if (place < 0) serve_one(fd, kind_of[fd], e[i].events);
      else
        for (int new; (new = accept4(fd, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
          kind_of[new] = place;
          watch(new, EPOLLIN | EPOLLRDHUP | (place == SOURCE - ECHO ? EPOLLOUT | EPOLLET : 0));
        }
    }
  }
}

/* ---- the client ---- */

static void sample(double seconds) {
  if (count < SAMPLES) samples[count++] = seconds;
}

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static int connect_one(struct sockaddr_in *to, int type, unsigned events) {
  int fd = socket(AF_INET, type | SOCK_NONBLOCK, 0), one = 1;
  if (fd < 0) fail("socket");
  if (type == SOCK_STREAM) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  begun[fd] = now();
  if (connect(fd, (struct sockaddr *)to, sizeof *to) && errno != EINPROGRESS) {
    close(fd);
    return -1;
  }
  watch(fd, events);
  return fd;
}

static void drop(int fd) { /* by a reset: no port stays in TIME_WAIT */
  struct linger l = {1, 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
  close(fd);
}

static void speak(int fd) {
  begun[fd] = now();
  if (send(fd, buffer, MESSAGE, MSG_NOSIGNAL) != MESSAGE) failures++;
}

/* One event of one connection. False: it ended. */
static int act(const char *kind, int fd, unsigned events) {
  ssize_t got;
  off_t from = 0;
  if (*kind == 'u' && kind[1] == 'p') {
    for (int turn = 0; turn < 16 && (got = sendfile(fd, zeros, &from, CHUNK)) > 0; turn++) units += got, from = 0;
    return got > 0 || errno == EAGAIN || errno == EINPROGRESS;
  }
  if (*kind == 'd') {
    for (int turn = 0; turn < 16 && (got = recv(fd, buffer, CHUNK, MSG_TRUNC)) > 0; turn++) units += got;
    return got > 0 || (got < 0 && errno == EAGAIN);
  }
  if (*kind == 'u') {
    while ((got = recv(fd, buffer, CHUNK, 0)) > 0) {
      sample(now() - begun[fd]);
      units++;
      speak(fd);
    }
    if (errno != EAGAIN) failures++;
    return 1;
  }
  if (!kind_of[fd]) { /* connected, or refused */
    if (events & (EPOLLERR | EPOLLHUP)) return failures++, 0;
    if (!(events & EPOLLOUT)) return 1;
    kind_of[fd] = 1;
    if (*kind == 'k') speak(fd);
    else if (send(fd, buffer, MESSAGE, MSG_NOSIGNAL) != MESSAGE) return failures++, 0;
  }
  while ((got = recv(fd, buffer + MESSAGE, MESSAGE, 0)) > 0) {
    if (*kind == 'k') {
      sample(now() - begun[fd]);
      units++;
      speak(fd);
    } else kind_of[fd] = 2;
  }
  if (got < 0 && errno == EAGAIN) return 1;
  if (*kind == 'c' && got == 0 && kind_of[fd] == 2) {
    sample(now() - begun[fd]);
    units++;
  } else failures++;
  return 0;
}

static void ask(const char *kind, struct sockaddr_in to, int number, double seconds) {
  int type = !strcmp(kind, "udp") ? SOCK_DGRAM : SOCK_STREAM, first = -1, last = -1;
  unsigned events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
  if (*kind == 'd') events = EPOLLIN | EPOLLRDHUP;
  if (!strcmp(kind, "up")) events = EPOLLOUT | EPOLLRDHUP;
  for (int i = 0; i < number; i++) {
    int fd = connect_one(&to, type, events);
    if (fd < 0) fail("connect");
    kind_of[fd] = 0;
    if (first < 0) first = fd;
    last = fd;
    if (type == SOCK_DGRAM)
      for (int n = 0; n < AHEAD; n++) speak(fd);
  }
  double begin = now(), end = begin + seconds, look = begin;
  while (now() < end) {
    struct epoll_event e[EVENTS];
    int ready = epoll_wait(loop, e, EVENTS, 50);
    for (int i = 0; i < ready; i++) {
      int fd = e[i].data.fd;
      if (act(kind, fd, e[i].events)) continue;
      /* A plain close where the other side closed first: then no port of ours stays in TIME_WAIT, nor by a reset. */
      if (*kind == 'c' && kind_of[fd] == 2) close(fd);
      else drop(fd);
      if (*kind != 'c' && ++failures) continue;
      while ((fd = connect_one(&to, type, events)) < 0)
        if (failures++, now() > end) break;
      if (fd >= 0) kind_of[fd] = 0;
    }
    if (type == SOCK_DGRAM && now() > look + PATIENCE / 2) {
      look = now();
      for (int fd = first; fd <= last; fd++)
        if (look - begun[fd] > PATIENCE)
          for (int n = 0; n < AHEAD; n++) failures++, speak(fd);
    }
  }
  double took = now() - begin;
  qsort(samples, count, sizeof *samples, by_size);
  printf("%ld %.6f %.9f %.9f %.9f %ld\n", units, took, count ? samples[count / 2] : 0,
         count ? samples[(long)(count * 0.99)] : 0, count ? samples[count - 1] : 0, failures);
}

static void hold(struct sockaddr_in to, int number) {
  char byte = 1;
  for (int i = 0; i < number; i++) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) || write(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 1)
      fail("idle connection");
  }
  puts("ready");
  fflush(stdout);
  while (read(0, &byte, 1) > 0) continue;
}

int main(int argc, char **argv) {
  prepare();
  if (argc == 3 && !strcmp(argv[1], "serve")) serve(argv[2]);
  if (argc != 6) {
    fputs("usage: far serve ADDRESS | far KIND ADDRESS PORT NUMBER SECONDS\n", stderr);
    return 2;
  }
  samples = malloc(sizeof *samples * SAMPLES);
  struct sockaddr_in to = at(argv[2], atoi(argv[3]));
  if (!strcmp(argv[1], "idle")) hold(to, atoi(argv[4]));
  else ask(argv[1], to, atoi(argv[4]), atof(argv[5]));
  return 0;
}

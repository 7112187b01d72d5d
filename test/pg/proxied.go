package pg

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// Messages of the protocol (version 3). All but the first of a client begin with a letter, then their length in four bytes,
// which counts itself.
const (
	msgQuery        = 'Q'
	msgParse        = 'P'
	msgBind         = 'B'
	msgSync         = 'S'
	msgFunctionCall = 'F'
	msgReady        = 'Z' // of the server: the answer to a Query, Sync or FunctionCall is complete

	askTLS      = 80877103 // in place of a version, in the first message
	askGSS      = 80877104
	longestMsg  = 1 << 30
	queueLength = 1024 // messages on their way in one direction
)

var errMessage = errors.New("not a message of Postgres")

// proxied is one connection by way of a Proxy: a goroutine that reads and one that writes for each direction.
type proxied struct {
	proxy          *Proxy
	client, server net.Conn
	// ctx ends with the connection. It is kept since cut comes from outside.
	ctx    context.Context
	cancel context.CancelFunc
	abort  sync.Once

	// statements are the texts of prepared ones by name. Only the client's reader uses them.
	statements map[string][]byte

	mu      sync.Mutex
	asked   int      // answers the client has asked for, the greeting included
	cutting *trigger // to be fired by the answer number lost, which is not forwarded
	lost    int
}

// message is one message, or a part of the stream that is forwarded as it is.
type message struct {
	kind byte // 0 for the first message of a client
	raw  []byte
	due  time.Time
}

// body is what follows the letter and the length.
func (m message) body() []byte {
	if m.kind == 0 {
		return m.raw[4:]
	}
	return m.raw[5:]
}

func newProxied(p *Proxy, client net.Conn) *proxied {
	ctx, cancel := context.WithCancel(context.Background())
	return &proxied{proxy: p, client: client, ctx: ctx, cancel: cancel, statements: map[string][]byte{}, asked: 1}
}

// cut resets both sides. The server's may not be connected yet: serve sees the end of ctx.
func (c *proxied) cut() { c.end(true) }

// end closes both sides once, by a reset or in order.
func (c *proxied) end(reset bool) {
	c.abort.Do(func() {
		c.cancel()
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, conn := range []net.Conn{c.client, c.server} {
			if conn == nil {
				continue
			}
			if tcp, ok := conn.(*net.TCPConn); ok && reset {
				_ = tcp.SetLinger(0) // a side that is gone needs no reset
			}
			_ = conn.Close()
		}
	})
}

// serve forwards until one side ends, then ends the other.
func (c *proxied) serve() {
	defer c.proxy.forget(c)
	defer c.end(false)
	server, err := c.proxy.dial(c.ctx)
	if err != nil {
		c.cut()
		return
	}
	c.mu.Lock()
	c.server = server
	c.mu.Unlock()
	if c.ctx.Err() != nil { // end has come before, and has not seen it
		_ = server.Close()
		return
	}
	var work sync.WaitGroup
	work.Go(func() { c.forward(server, c.readClient) })
	c.forward(c.client, c.readServer)
	work.Wait()
}

// forward writes what read reads, when it is due, until either fails. The end of a side passes like its bytes: through
// a black hole it does not.
func (c *proxied) forward(to net.Conn, read func(queue chan<- message) error) {
	queue := make(chan message, queueLength)
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(queue)
		_ = read(queue) // how a side has ended is no matter to the other
	})
	if c.write(to, queue) == nil {
		_ = c.proxy.pass(c.ctx) // an error means that the connection has ended, too
	}
	c.end(false)
	for range queue { // the reader must not wait for room
	}
	reading.Wait()
}

// write writes the messages of a queue, those that are due at once together.
func (c *proxied) write(to net.Conn, queue <-chan message) error {
	w := bufio.NewWriter(to)
	for m := range queue {
		if wait := time.Until(m.due); wait > 0 {
			if err := w.Flush(); err != nil {
				return err
			}
			select {
			case <-time.After(wait):
			case <-c.ctx.Done():
				return c.ctx.Err()
			}
		}
		if err := c.proxy.pass(c.ctx); err != nil {
			return err
		}
		if _, err := w.Write(m.raw); err != nil {
			return err
		}
		if len(queue) > 0 {
			continue
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// readClient reads the client's messages, and cuts the connection where that is due.
func (c *proxied) readClient(queue chan<- message) error {
	r := bufio.NewReader(c.client)
	if err := c.readGreeting(r, queue); err != nil {
		return err
	}
	for {
		m, err := readMessage(r)
		if err != nil {
			return err
		}
		text := c.executed(m)
		if t := c.proxy.take(func(t *trigger) bool { return matches(t, text, m) }); t != nil {
			if t.when == BeforeRequest {
				c.cut()
				close(t.fired)
				return nil
			}
			c.mu.Lock()
			c.cutting, c.lost = t, c.asked+1
			c.mu.Unlock()
		}
		if m.kind == msgQuery || m.kind == msgSync || m.kind == msgFunctionCall {
			c.mu.Lock()
			c.asked++
			c.mu.Unlock()
		}
		m.due = c.proxy.due()
		queue <- m
	}
}

// readGreeting reads the first message, which has no letter, and declines TLS before.
func (c *proxied) readGreeting(r *bufio.Reader, queue chan<- message) error {
	for {
		m, err := readBody(r, nil)
		if err != nil {
			return err
		}
		if len(m.body()) < 4 {
			return errMessage
		}
		if code := binary.BigEndian.Uint32(m.body()); code != askTLS && code != askGSS {
			m.due = c.proxy.due()
			queue <- m
			return nil
		}
		if _, err := c.client.Write([]byte{'N'}); err != nil {
			return err
		}
	}
}

// executed is the text of the statement that a message has executed, as far as there is one. It keeps the
// texts of those that are prepared.
func (c *proxied) executed(m message) []byte {
	switch m.kind {
	case msgQuery:
		return m.body()
	case msgParse: // name, text, types
		name, rest, _ := bytes.Cut(m.body(), []byte{0})
		text, _, _ := bytes.Cut(rest, []byte{0})
		c.statements[string(name)] = text
	case msgBind: // portal, name, arguments
		_, rest, _ := bytes.Cut(m.body(), []byte{0})
		name, _, _ := bytes.Cut(rest, []byte{0})
		return c.statements[string(name)]
	}
	return nil
}

// matches says whether a message executes what the trigger waits for.
func matches(t *trigger, text []byte, m message) bool {
	if m.kind != msgQuery && m.kind != msgBind {
		return false
	}
	pattern := bytes.ToLower(t.pattern)
	return bytes.Contains(bytes.ToLower(text), pattern) || bytes.Contains(bytes.ToLower(m.body()), pattern)
}

// readServer reads the server's messages, and cuts the connection at the end of an answer that is to be lost.
func (c *proxied) readServer(queue chan<- message) error {
	r := bufio.NewReader(c.server)
	for answered := 0; ; {
		m, err := readMessage(r)
		c.mu.Lock()
		cutting, losing := c.cutting, answered+1 == c.lost
		c.mu.Unlock()
		if m.kind == msgReady {
			answered++
		}
		if cutting != nil && losing && (err != nil || m.kind == msgReady) {
			c.cut()
			close(cutting.fired)
			return nil
		}
		if err != nil {
			return err
		}
		if cutting == nil || !losing {
			m.due = c.proxy.due()
			queue <- m
		}
	}
}

func readMessage(r *bufio.Reader) (message, error) {
	kind, err := r.ReadByte()
	if err != nil {
		return message{}, err
	}
	m, err := readBody(r, []byte{kind})
	m.kind = kind
	return m, err
}

// readBody reads the length and what it counts, and appends both to the letter that has been read.
func readBody(r *bufio.Reader, letter []byte) (message, error) {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return message{}, err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n < 4 || n > longestMsg {
		return message{}, errMessage
	}
	raw := make([]byte, len(letter)+int(n))
	copy(raw, letter)
	copy(raw[len(letter):], length[:])
	_, err := io.ReadFull(r, raw[len(letter)+4:])
	return message{raw: raw}, err
}

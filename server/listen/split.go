package listen

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// traffic is what a connection carries.
type traffic int

const (
	trafficHTTP traffic = iota
	trafficGRPC
)

const (
	// maxSniff bounds what is kept of a connection before it is known. A client that has said so much without a
	// request is left to the gRPC server, which knows what to think of it.
	maxSniff = 128 << 10
	// maxHeaders bounds the first request's header when it is looked into.
	maxHeaders = 64 << 10
	// maxFrame is the size of frames that our empty SETTINGS allow.
	maxFrame = 16 << 10
)

// sniff finds out what a connection carries when it may be both. It reads as little as it can, and what it has
// read stays to be read.
//
// A gRPC client sends no request before it has the server's SETTINGS, so they are sent here, empty, once the
// preface was seen. HTTP/2 lets a server send SETTINGS again, which whoever gets the connection will do. The
// client's answer to ours would be one too many for net/http, which ends the connection for that: it is taken out.
func sniff(c *conn) (traffic, error) {
	if http2, err := hasPreface(c); err != nil || !http2 {
		return trafficHTTP, err
	}
	if _, err := c.Conn.Write(emptySettings()); err != nil {
		return trafficHTTP, err
	}
	return firstRequest(c)
}

// errNoGreeting says that a client of a gRPC server does not begin as gRPC does.
var errNoGreeting = errors.New("neither the HTTP/2 preface nor SETTINGS")

// greeting reads what a gRPC client begins with, the preface and SETTINGS. The gRPC server would wait for these too,
// but it does not stop meanwhile.
func greeting(c *conn) error {
	switch ok, err := hasPreface(c); {
	case err != nil:
		return err
	case !ok:
		return errNoGreeting
	}
	framer := http2.NewFramer(io.Discard, &recorder{conn: c, at: len(http2.ClientPreface)})
	framer.SetMaxReadFrameSize(maxFrame)
	frame, err := framer.ReadFrame()
	if _, ok := frame.(*http2.SettingsFrame); err == nil && !ok {
		err = errNoGreeting
	}
	return err
}

// hasPreface reads until the connection begins as HTTP/2 does, or otherwise.
func hasPreface(c *conn) (bool, error) {
	preface := []byte(http2.ClientPreface)
	for seen := c.replay; ; {
		n := min(len(seen), len(preface))
		if !bytes.Equal(seen[:n], preface[:n]) {
			return false, nil
		}
		if n == len(preface) {
			return true, nil
		}
		var err error
		if seen, err = c.fill(seen); err != nil {
			return false, err
		}
	}
}

// firstRequest reads frames until the first request's header. A client that does something else first, or nothing
// while the deadline lasts, is a gRPC client with an idle connection, if it has greeted (see greeting).
func firstRequest(c *conn) (traffic, error) {
	tape := &recorder{conn: c, at: len(http2.ClientPreface)}
	framer := http2.NewFramer(io.Discard, tape)
	framer.SetMaxReadFrameSize(maxFrame)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	framer.MaxHeaderListSize = maxHeaders
	ackAt, greeted := -1, false
	for len(c.replay) < maxSniff {
		start := tape.at
		frame, err := framer.ReadFrame()
		switch f := frame.(type) {
		case nil:
			if errors.Is(err, io.EOF) {
				return trafficGRPC, err
			}
			if greeted && errors.Is(err, os.ErrDeadlineExceeded) || !isNetError(err) {
				return trafficGRPC, nil
			}
			return trafficGRPC, err
		case *http2.SettingsFrame:
			greeted = true
			if f.IsAck() && ackAt < 0 {
				ackAt = start
			}
		case *http2.WindowUpdateFrame, *http2.PriorityFrame:
		case *http2.MetaHeadersFrame:
			if isGRPC(f) {
				return trafficGRPC, nil
			}
			dropAck(c, ackAt, tape.at)
			return trafficHTTP, nil
		default:
			return trafficGRPC, nil
		}
	}
	return trafficGRPC, nil
}

// isNetError tells an error of the connection from one of the protocol, which the gRPC server will find again.
func isNetError(err error) bool {
	var connection http2.ConnectionError
	var stream http2.StreamError
	return !errors.As(err, &connection) && !errors.As(err, &stream) && !errors.Is(err, http2.ErrFrameTooLarge)
}

func isGRPC(f *http2.MetaHeadersFrame) bool {
	for _, field := range f.RegularFields() {
		if field.Name == "content-type" {
			return strings.HasPrefix(field.Value, "application/grpc")
		}
	}
	return false
}

// dropAck takes the answer to our SETTINGS out of what was read, if it is there, or has it taken out of what
// comes. next is where the next frame begins.
func dropAck(c *conn, ackAt, next int) {
	if ackAt >= 0 {
		c.replay = append(c.replay[:ackAt:ackAt], c.replay[ackAt+frameHeader:]...)
		return
	}
	c.acks = &ackFilter{source: c.Conn}
	c.acks.feed(c.replay[next:])
	c.replay = c.replay[:next]
}

// recorder reads a connection's replay from at on, and then the connection, which it adds to the replay.
type recorder struct {
	conn *conn
	at   int
}

func (r *recorder) Read(p []byte) (int, error) {
	if r.at == len(r.conn.replay) {
		if _, err := r.conn.fill(r.conn.replay); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.conn.replay[r.at:])
	r.at += n
	return n, nil
}

const frameHeader = 9

func emptySettings() []byte { return []byte{0, 0, 0, byte(http2.FrameSettings), 0, 0, 0, 0, 0} }

// ackFilter passes HTTP/2 frames on, but for the first SETTINGS with the ACK flag.
type ackFilter struct {
	source  io.Reader
	early   []byte            // read from the source already
	header  [frameHeader]byte // of the frame that begins
	have    int               // bytes of header that were read
	given   int               // bytes of header that were passed on, once it is whole
	body    int               // bytes of the frame's payload that are to come
	dropped bool              // the ACK is out
}

// feed adds bytes that were read from the source already. It is called before the first Read.
func (f *ackFilter) feed(early []byte) { f.early = bytes.Clone(early) }

// finished says that the source itself can be read from now on.
func (f *ackFilter) finished() bool { return f.dropped && len(f.early) == 0 }

func (f *ackFilter) read(p []byte) (int, error) {
	if len(f.early) > 0 {
		n := copy(p, f.early)
		f.early = f.early[n:]
		return n, nil
	}
	return f.source.Read(p)
}

// Read passes a header on only when it is whole, since a part of one may be the ACK's.
func (f *ackFilter) Read(p []byte) (int, error) {
	if len(p) == 0 || f.dropped {
		return f.read(p)
	}
	if f.body == 0 && f.given == frameHeader {
		f.have, f.given = 0, 0
	}
	if f.have < frameHeader {
		if err := f.readHeader(); err != nil {
			return 0, err
		}
		if f.isAck() {
			f.dropped = true
			return f.read(p)
		}
		f.body = int(f.header[0])<<16 | int(f.header[1])<<8 | int(f.header[2])
	}
	if f.given < frameHeader {
		n := copy(p, f.header[f.given:])
		f.given += n
		return n, nil
	}
	n, err := f.read(p[:min(len(p), f.body)])
	f.body -= n
	return n, err
}

// readHeader keeps what it has read when the source fails, which after a deadline it may not do for good.
func (f *ackFilter) readHeader() error {
	for f.have < frameHeader {
		n, err := f.read(f.header[f.have:])
		if f.have += n; err != nil && f.have < frameHeader {
			return err
		}
	}
	return nil
}

func (f *ackFilter) isAck() bool {
	return http2.FrameType(f.header[3]) == http2.FrameSettings && http2.Flags(f.header[4]).Has(http2.FlagSettingsAck)
}

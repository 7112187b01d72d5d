package listen

import (
	"bytes"
	"io"
	"testing"
	"testing/iotest"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// TestRequestAfterAck has an HTTP/2 client answer our SETTINGS before its first request, as a careful one may.
func TestRequestAfterAck(t *testing.T) {
	listeners := open(t, Options{}, "http://127.0.0.1:0")
	serve(t, listeners, nil)
	conn, err := dialer(listeners[0])(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	framer := http2.NewFramer(conn, conn)
	io.WriteString(conn, http2.ClientPreface)
	framer.WriteSettings()
	frame, err := framer.ReadFrame()
	if settings, ok := frame.(*http2.SettingsFrame); !ok || settings.IsAck() || settings.NumSettings() != 0 {
		t.Fatalf("first frame: %v (%v)", frame, err)
	}
	framer.WriteSettingsAck()
	for id := uint32(1); id <= 3; id += 2 {
		framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndHeaders: true, EndStream: true, BlockFragment: headers(":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a")})
		answer(t, framer, id)
	}
}

func headers(pairs ...string) []byte {
	block := &bytes.Buffer{}
	encoder := hpack.NewEncoder(block)
	for i := 0; i < len(pairs); i += 2 {
		encoder.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return block.Bytes()
}

// answer reads until the stream has ended, and answers SETTINGS meanwhile.
func answer(t *testing.T, framer *http2.Framer, id uint32) {
	t.Helper()
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				framer.WriteSettingsAck()
			}
		case *http2.GoAwayFrame:
			t.Fatalf("sent away: %v", f)
		case *http2.DataFrame:
			if f.StreamID == id && f.StreamEnded() {
				return
			}
		}
	}
}

// TestAckFilter reads a stream in pieces of all sizes: the same must come out, but for the first ACK.
func TestAckFilter(t *testing.T) {
	frames := func(withFirst bool) []byte {
		buf := &bytes.Buffer{}
		framer := http2.NewFramer(buf, nil)
		framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 77})
		framer.WriteData(1, false, bytes.Repeat([]byte("x"), 300))
		framer.WriteData(1, false, nil)
		if withFirst {
			framer.WriteSettingsAck()
		}
		framer.WriteWindowUpdate(0, 5)
		framer.WriteSettingsAck()
		framer.WriteData(1, true, []byte("the end"))
		return buf.Bytes()
	}
	given, want := frames(true), frames(false)
	for early := 0; early <= len(given); early += 7 {
		for _, size := range []int{1, 8, 9, 10, 512} {
			f := &ackFilter{source: iotest.OneByteReader(bytes.NewReader(given[early:]))}
			f.feed(given[:early])
			got := &bytes.Buffer{}
			if _, err := io.CopyBuffer(struct{ io.Writer }{got}, struct{ io.Reader }{f}, make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Fatalf("%d bytes early, %d at a time: got %x, want %x", early, size, got.Bytes(), want)
			}
			if !f.finished() {
				t.Errorf("%d bytes early: not finished", early)
			}
		}
	}
}

// TestAckFilterSurvivesTimeouts has the source fail after each byte, as a connection does at a deadline.
func TestAckFilterSurvivesTimeouts(t *testing.T) {
	f := &ackFilter{source: iotest.OneByteReader(iotest.TimeoutReader(bytes.NewReader([]byte{0, 0, 1, 0, 0, 0, 0, 0, 1, 'x'})))}
	p := make([]byte, 16)
	if n, err := f.Read(p); n != 0 || err != iotest.ErrTimeout {
		t.Fatalf("read %d, %v", n, err)
	}
	if n, err := f.Read(p); n != frameHeader || err != nil {
		t.Fatalf("read %d, %v", n, err)
	}
	if n, err := f.Read(p); n != 1 || p[0] != 'x' || err != nil {
		t.Fatalf("read %d, %v", n, err)
	}
}

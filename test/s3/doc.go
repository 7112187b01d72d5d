// Package s3 runs a real S3 server for tests: versitygw, which make peers builds, over a directory, on a port of 127.0.0.1.
//
// It ends with the process that started it. Methods that start, stop or pause it are called by one goroutine at a time.
package s3

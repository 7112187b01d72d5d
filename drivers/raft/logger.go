package raft

import (
	"fmt"
	"log/slog"
)

// raftLogger is where Raft tells what it does. What operators should know of that is told by this package.
type raftLogger struct{ to *slog.Logger }

func (l raftLogger) Debug(v ...any)            { l.to.Debug(fmt.Sprint(v...)) }
func (l raftLogger) Debugf(f string, v ...any) { l.to.Debug(fmt.Sprintf(f, v...)) }
func (l raftLogger) Info(v ...any)             { l.to.Debug(fmt.Sprint(v...)) }
func (l raftLogger) Infof(f string, v ...any)  { l.to.Debug(fmt.Sprintf(f, v...)) }

func (l raftLogger) Warning(v ...any)            { l.to.Warn(fmt.Sprint(v...)) }
func (l raftLogger) Warningf(f string, v ...any) { l.to.Warn(fmt.Sprintf(f, v...)) }
func (l raftLogger) Error(v ...any)              { l.to.Error(fmt.Sprint(v...)) }
func (l raftLogger) Errorf(f string, v ...any)   { l.to.Error(fmt.Sprintf(f, v...)) }

// Fatal and Panic are called where going on would break the consensus: Raft expects not to return from them.
func (l raftLogger) Fatal(v ...any)            { panic(fmt.Sprint(v...)) }
func (l raftLogger) Fatalf(f string, v ...any) { panic(fmt.Sprintf(f, v...)) }
func (l raftLogger) Panic(v ...any)            { panic(fmt.Sprint(v...)) }
func (l raftLogger) Panicf(f string, v ...any) { panic(fmt.Sprintf(f, v...)) }

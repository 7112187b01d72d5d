package main

import "context"

func (p *program) check(ctx context.Context, args []string) int { return 1 }

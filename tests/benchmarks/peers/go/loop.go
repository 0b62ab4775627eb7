// The closed loop of all clients: so many calls are under way at once, and the next one begins when one has ended.
//
// The program says "began" when it is warm, then its figures as one line of JSON, and runs on until its input is closed.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand"
	"os"
	"sort"
	"sync"
	"sync/atomic"
	"time"
)

// keys is how many keys the calls go to, one after the other.
const keys = 10000

// options are what every client is told.
type options struct {
	to          string
	outstanding int
	seconds     float64
	warmSeconds float64
	value       []byte
	kind        string
}

// step carries out the call of that number, counted from 0.
type step func(number int64) error

// figures are what one run of the loop found.
type figures struct {
	took   []time.Duration
	failed int64
	lasted time.Duration
}

func parse() options {
	var o options
	size := flag.Int("value-bytes", 128, "how large each value is")
	flag.StringVar(&o.to, "to", "", "host:port of the leader")
	flag.IntVar(&o.outstanding, "outstanding", 1, "how many calls are under way at once")
	flag.Float64Var(&o.seconds, "seconds", 5, "how long the work that counts takes")
	flag.Float64Var(&o.warmSeconds, "warm-seconds", 1, "how long the same work is done before it")
	flag.StringVar(&o.kind, "kind", "write", "write, or read what was written, by a client that can")
	flag.Parse()
	o.value = make([]byte, *size)
	rand.Read(o.value)
	return o
}

// demand ends the program if there is an error.
func demand(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func key(number int64) string {
	return fmt.Sprintf("k%d", number%keys)
}

// measure warms up, does the work that counts, and says what it found.
func measure(o options, do step) {
	var number int64
	run(o.outstanding, o.warmSeconds, &number, do)
	fmt.Println("began")
	found := run(o.outstanding, o.seconds, &number, do)
	demand(json.NewEncoder(os.Stdout).Encode(found.told()))
	io.Copy(io.Discard, os.Stdin)
}

// run keeps so many calls under way for so many seconds; each has a goroutine of its own, as a program of users would.
func run(outstanding int, seconds float64, number *int64, do step) figures {
	all := figures{}
	var mutex sync.Mutex
	var workers sync.WaitGroup
	start := time.Now()
	end := start.Add(time.Duration(seconds * float64(time.Second)))
	for worker := 0; worker < outstanding; worker++ {
		workers.Add(1)
		go func() {
			defer workers.Done()
			own := figures{}
			for began := time.Now(); began.Before(end); began = time.Now() {
				if do(atomic.AddInt64(number, 1)-1) != nil {
					own.failed++
				} else {
					own.took = append(own.took, time.Since(began))
				}
			}
			mutex.Lock()
			all.took = append(all.took, own.took...)
			all.failed += own.failed
			mutex.Unlock()
		}()
	}
	workers.Wait()
	all.lasted = time.Since(start)
	return all
}

// told is what the benchmark reads.
func (f figures) told() map[string]interface{} {
	sort.Slice(f.took, func(a, b int) bool { return f.took[a] < f.took[b] })
	at := func(part float64) float64 {
		if len(f.took) == 0 {
			return 0
		}
		place := int(float64(len(f.took)) * part)
		if place >= len(f.took) {
			place = len(f.took) - 1
		}
		return float64(f.took[place].Microseconds()) / 1000
	}
	return map[string]interface{}{
		"count": len(f.took), "seconds": f.lasted.Seconds(), "failed": f.failed,
		"p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1),
	}
}

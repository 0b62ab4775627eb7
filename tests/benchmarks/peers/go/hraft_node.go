// A node of a store of keys and values on hashicorp/raft with its durable log in BoltDB, for measuring.
//
// Frames have a length of four bytes, are pipelined and answered in order. 'P', the length of the key as a byte, key and
// value: a write, answered by nothing or by an error. 'S': the state, answered as JSON.
package main

import (
	"bufio"
	"encoding/binary"
	"encoding/gob"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb"
)

const (
	// batch is how many entries go to a follower at once; the library allows no more, its default is 64.
	batch = 1024
	// cached is how many entries are sent from memory; 512 is usual.
	cached = 8192
	// flushesOfTransaction is how often BoltDB flushes for one: its pages, then the page that names them.
	flushesOfTransaction = 2
	applyTimeout         = 10 * time.Second
)

func demand(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// durable counts the transactions of the log.
type durable struct {
	*raftboltdb.BoltStore
	transactions int64
}

func (d *durable) StoreLog(entry *raft.Log) error {
	return d.StoreLogs([]*raft.Log{entry})
}

func (d *durable) StoreLogs(entries []*raft.Log) error {
	atomic.AddInt64(&d.transactions, 1)
	return d.BoltStore.StoreLogs(entries)
}

// store is the state machine.
type store struct {
	sync.Mutex
	values map[string][]byte
}

func (s *store) Apply(entry *raft.Log) interface{} {
	size := int(entry.Data[0])
	s.Lock()
	s.values[string(entry.Data[1:1+size])] = entry.Data[1+size:]
	s.Unlock()
	return nil
}

// image is a copy of the state.
type image map[string][]byte

func (s *store) Snapshot() (raft.FSMSnapshot, error) {
	s.Lock()
	defer s.Unlock()
	copied := image{}
	for key, value := range s.values {
		copied[key] = value
	}
	return copied, nil
}

func (i image) Persist(sink raft.SnapshotSink) error {
	if err := gob.NewEncoder(sink).Encode(i); err != nil {
		sink.Cancel()
		return err
	}
	return sink.Close()
}

func (image) Release() {}

func (s *store) Restore(in io.ReadCloser) error {
	defer in.Close()
	values := map[string][]byte{}
	if err := gob.NewDecoder(in).Decode(&values); err != nil {
		return err
	}
	s.Lock()
	s.values = values
	s.Unlock()
	return nil
}

// node is what connections are served with.
type node struct {
	raft *raft.Raft
	log  *durable
}

func main() {
	id := flag.String("id", "", "the node's id")
	serves := flag.String("serves", "", "host:port for clients")
	data := flag.String("data", "", "the node's folder")
	peers := flag.String("peers", "", "ID=host:port,... of all nodes, for each other")
	flag.Parse()
	n := start(*id, *data, *peers)
	listener, err := net.Listen("tcp", *serves)
	demand(err)
	for {
		connection, err := listener.Accept()
		demand(err)
		go n.serve(connection)
	}
}

func start(id, data, peers string) *node {
	config := raft.DefaultConfig()
	config.LocalID, config.MaxAppendEntries, config.LogLevel = raft.ServerID(id), batch, "ERROR"
	var members raft.Configuration
	own := ""
	for _, peer := range strings.Split(peers, ",") {
		pair := strings.SplitN(peer, "=", 2)
		members.Servers = append(members.Servers, raft.Server{ID: raft.ServerID(pair[0]), Address: raft.ServerAddress(pair[1])})
		if pair[0] == id {
			own = pair[1]
		}
	}
	bolt, err := raftboltdb.NewBoltStore(filepath.Join(data, "raft.db"))
	demand(err)
	log := &durable{BoltStore: bolt}
	cache, err := raft.NewLogCache(cached, log)
	demand(err)
	snapshots, err := raft.NewFileSnapshotStore(data, 2, io.Discard)
	demand(err)
	transport, err := raft.NewTCPTransport(own, nil, 3, 10*time.Second, io.Discard)
	demand(err)
	if known, err := raft.HasExistingState(cache, bolt, snapshots); err == nil && !known {
		demand(raft.BootstrapCluster(config, cache, bolt, snapshots, transport, members))
	}
	r, err := raft.NewRaft(config, &store{values: map[string][]byte{}}, cache, bolt, snapshots, transport)
	demand(err)
	return &node{r, log}
}

// serve reads frames and answers each in its turn; writes are applied side by side, so the library batches them.
func (n *node) serve(connection net.Conn) {
	defer connection.Close()
	answers := make(chan chan []byte, 8192)
	defer close(answers)
	go answer(connection, answers)
	in := bufio.NewReaderSize(connection, 64<<10)
	for {
		var size uint32
		if binary.Read(in, binary.BigEndian, &size) != nil {
			return
		}
		body := make([]byte, size)
		if _, err := io.ReadFull(in, body); err != nil || size == 0 {
			return
		}
		done := make(chan []byte, 1)
		if body[0] == 'P' {
			go n.write(body[1:], done)
		} else {
			done <- n.state()
		}
		answers <- done
	}
}

func (n *node) write(command []byte, done chan []byte) {
	if err := n.raft.Apply(command, applyTimeout).Error(); err != nil {
		done <- []byte(err.Error())
	} else {
		done <- nil
	}
}

func (n *node) state() []byte {
	text, err := json.Marshal(map[string]interface{}{
		"leads": n.raft.State() == raft.Leader, "flushes": flushesOfTransaction * atomic.LoadInt64(&n.log.transactions),
	})
	demand(err)
	return text
}

func answer(connection net.Conn, answers chan chan []byte) {
	out := bufio.NewWriterSize(connection, 64<<10)
	for each := range answers {
		body := <-each
		binary.Write(out, binary.BigEndian, uint32(len(body)))
		out.Write(body)
		if len(answers) == 0 {
			out.Flush()
		}
	}
}

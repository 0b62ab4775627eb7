// Loads ZooKeeper by the client for Go that Debian has: one connection, which pipelines the writes of all goroutines.
package main

import (
	"sync"
	"time"

	"github.com/samuel/go-zookeeper/zk"
)

const (
	// folder holds all keys, because ZooKeeper keeps metrics of its own for each child of its root.
	folder = "/measured"
	// makers is how many goroutines make the keys, because ZooKeeper writes only to those that exist.
	makers = 64
)

func main() {
	o := parse()
	connection, _, err := zk.Connect([]string{o.to}, 20*time.Second)
	demand(err)
	makeKeys(connection, o.value)
	measure(o, func(number int64) error {
		_, err := connection.Set(path(number), o.value, -1)
		return err
	})
}

func path(number int64) string {
	return folder + "/" + key(number)
}

func makeKeys(connection *zk.Conn, value []byte) {
	if made, _, err := connection.Exists(path(keys - 1)); err == nil && made {
		return
	}
	makeKey(connection, folder, nil)
	var workers sync.WaitGroup
	for maker := 0; maker < makers; maker++ {
		workers.Add(1)
		go func(first int) {
			defer workers.Done()
			for number := first; number < keys; number += makers {
				makeKey(connection, path(int64(number)), value)
			}
		}(maker)
	}
	workers.Wait()
}

func makeKey(connection *zk.Conn, at string, value []byte) {
	if _, err := connection.Create(at, value, 0, zk.WorldACL(zk.PermAll)); err != zk.ErrNodeExists {
		demand(err)
	}
}
